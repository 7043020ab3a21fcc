"""Serving predictions over HTTP: requests, answers, the web application, and its deployment on Ray Serve."""
