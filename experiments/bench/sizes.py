"""How much the bench measures, in full and quickly."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    epochs: int = 48
    trials: int = 256  # of Ablax, per repeat
    jax_trials: int = 32
    peer_trials: int = 8
    widths: tuple[int, ...] = (32, 64, 128, 512)
    width_epochs: int = 12
    width_trials: int = 64
    slots: tuple[int, ...] = (16, 32, 64, 128, 256)
    slots_trials: int = 512
    segments: int = 40
    stopped_trials: int = 256
    tiny: tuple[int, ...] = (500, 5000)


FULL = Sizes()
QUICK = Sizes(
    epochs=6, trials=32, jax_trials=8, widths=(32,), width_epochs=3, width_trials=32, slots=(16,),
    slots_trials=32, segments=3, stopped_trials=64, tiny=(100, 200),
)  # fmt: skip
