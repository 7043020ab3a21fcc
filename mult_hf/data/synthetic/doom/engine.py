"""The ViZDoom engine as a camera that can be placed anywhere in a frozen level (https://vizdoom.farama.org)."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .levels import vizdoom, wad_path

RESOLUTIONS = {height: f"RES_{height * 4 // 3}X{height}" for height in (120, 150, 192, 240, 300, 384, 480, 600, 768, 960, 1200)}
"""ViZDoom's names of its 4:3 resolutions by height; at 4:3 its field of view spans the image's width."""

EYE_HEIGHT = 41
"""Map units from the player's feet to the eyes."""

SETTLING_TICS = 4
"""Game steps (1/35 s) until the eyes are at rest after a warp and a new field of view is reached (at 7 degrees per step)."""

CAMERA_VARIABLES = ("POSITION_X", "POSITION_Y", "POSITION_Z", "CAMERA_POSITION_Z", "CAMERA_ANGLE", "CAMERA_FOV")

# Warping needs cheats; the message about secrets would appear in the image.
GAME_ARGUMENTS = "+sv_cheats 1 +cl_showsecretmessage 0"


class EngineError(ChildProcessError):
    """The engine, a process of its own, did not start, or did not reach a state that can be rendered."""


@dataclass(frozen=True)
class Sprite:
    """A thing in the image, drawn as an upright sprite that faces the camera.

    Args:
        label: its value in the frame's labels.
        name: the engine's class of the thing, for example "Zombieman".
        category: ViZDoom's category, for example "Monster"; empty if none.
        x: position to the east, map units.
        y: position to the north.
    """

    label: int
    name: str
    category: str
    x: float
    y: float


@dataclass(frozen=True)
class Frame:
    """Image, buffers and camera state of one frame.

    Args:
        image: (height, width, 3) uint8 RGB.
        depth_steps: (height, width) uint8, the engine's coarse depth buffer.
        labels: (height, width) uint8, values of sprites; 0 and 1 are the level itself.
        sprites: the sprites in the image.
        floors: (sectors,) current floor heights, map units.
        ceilings: (sectors,) current ceiling heights.
        position: (3,) x, y and height of the player's feet.
        eye: height of the camera.
        heading: degrees from east, counter-clockwise.
        field_of_view: horizontal, degrees.
    """

    image: np.ndarray
    depth_steps: np.ndarray
    labels: np.ndarray
    sprites: tuple[Sprite, ...]
    floors: np.ndarray
    ceilings: np.ndarray
    position: np.ndarray
    eye: float
    heading: float
    field_of_view: float


class FrozenGame:
    """A level in which time is frozen for everything except the player. Use it as a context manager.

    Args:
        level: a name in `levels.LEVELS`.
        height: height of the frames in pixels, a key of `RESOLUTIONS`; the width is 4/3 of it.
        seed: seed of the engine's random numbers.

    Raises:
        ValueError: if the engine has no such resolution.
        EngineError: if the engine does not start.
    """

    def __init__(self, level: str, height: int, seed: int) -> None:
        if height not in RESOLUTIONS:
            raise ValueError(f"the engine has no 4:3 resolution of {height} rows; it has {', '.join(map(str, RESOLUTIONS))}")
        self.level = level
        self._settings = tempfile.TemporaryDirectory(prefix="mult_hf_doom_")
        self._game = _configured_game(level, height, seed, Path(self._settings.name))
        try:
            self._game.init()
        except (vizdoom.MessageQueueException, vizdoom.SharedMemoryException, vizdoom.ViZDoomUnexpectedExitException) as error:
            self._settings.cleanup()
            raise EngineError(
                f"ViZDoom does not start: {error}; it needs shared memory; free space in /dev/shm, or give the container more"
            ) from error
        for cheat in ("god", "notarget", "freeze"):
            self._game.send_game_command(cheat)
        self._step(1)

    def __enter__(self) -> "FrozenGame":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine and remove its settings file."""
        self._game.close()
        self._settings.cleanup()

    def move_to(self, x: int, y: int) -> bool:
        """Warp the player and wait until the eyes are at rest.

        Args:
            x: to the east, whole map units.
            y: to the north.

        Returns:
            `bool`: whether the player now stands there with the eyes at their usual height.
        """
        self._game.send_game_command(f"warp {x} {y}")
        self._step(SETTLING_TICS)
        now_x, now_y, feet, eye, *_ = self._state().game_variables
        return abs(now_x - x) < 1 and abs(now_y - y) < 1 and abs(eye - feet - EYE_HEIGHT) < 0.5

    def look(self, heading: float, field_of_view: int) -> Frame:
        """Turn the player and take a frame.

        Args:
            heading: degrees from east, counter-clockwise.
            field_of_view: horizontal, whole degrees.
        """
        for _ in range(4):
            if round(self._state().game_variables[5]) == field_of_view:
                break
            self._game.send_game_command(f"fov {field_of_view}")
            self._step(SETTLING_TICS)
        turn = (self._state().game_variables[4] - heading + 180) % 360 - 180  # positive to the right
        self._game.make_action([float(turn)], 1)
        return _frame(self._state())

    def _step(self, tics: int) -> None:
        self._game.make_action([0.0], tics)

    def _state(self) -> Any:
        """The `vizdoom.GameState`, whose buffers are all enabled and none is None."""
        state = self._game.get_state()
        if state is None:
            raise EngineError(f"level {self.level} ended during rendering; remove it from --levels")
        return state


def _configured_game(level: str, height: int, seed: int, folder: Path) -> "vizdoom.DoomGame":
    game = vizdoom.DoomGame()
    game.set_doom_config_path(str(folder / "settings.ini"))
    game.set_doom_game_path(str(wad_path(level)))
    game.set_doom_map(level)
    game.set_seed(seed)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.set_window_visible(False)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, RESOLUTIONS[height]))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "effects_sprites", "screen_flashes"):
        getattr(game, f"set_render_{part}")(False)
    for source in ("depth_buffer", "labels_buffer", "sectors_info"):
        getattr(game, f"set_{source}_enabled")(True)
    game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in CAMERA_VARIABLES])
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.add_game_args(GAME_ARGUMENTS)
    return game


def _frame(state: Any) -> Frame:
    x, y, feet, eye, heading, field_of_view = map(float, state.game_variables)
    sectors = sorted(state.sectors, key=lambda sector: sector.id)
    sprites = (
        Sprite(label.value, label.object_name, label.object_category, label.object_position_x, label.object_position_y)
        for label in state.labels
    )
    return Frame(
        image=state.screen_buffer.copy(),
        depth_steps=state.depth_buffer.copy(),
        labels=state.labels_buffer.copy(),
        sprites=tuple(sprites),
        floors=np.array([sector.floor_height for sector in sectors]),
        ceilings=np.array([sector.ceiling_height for sector in sectors]),
        position=np.array([x, y, feet]),
        eye=eye,
        heading=heading,
        field_of_view=field_of_view,
    )
