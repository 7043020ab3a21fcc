"""Serving predictions over HTTP: requests, answers, the web application, and its engines, uvicorn in one process and Ray Serve."""
