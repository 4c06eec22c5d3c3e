"""How much the bench measures, in full and quickly."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    epochs: int = 48
    trials: int = 256  # of Ablax, per repeat; the next two of the peers
    jax_trials: int = 192
    peer_trials: int = 48
    widths: tuple[int, ...] = (32, 64, 128, 512)
    width_epochs: int = 12
    width_trials: int = 128
    slots: tuple[int, ...] = (16, 32, 64, 128, 256)
    slots_trials: int = 512
    segments: int = 40
    with_dropout: bool = True
    stopped_trials: int = 256
    stopped_steps: int = 2000
    tiny: tuple[int, ...] = (500, 5000)


FULL = Sizes()
QUICK = Sizes(
    epochs=6,
    trials=32,
    jax_trials=8,
    peer_trials=8,
    widths=(32,),
    width_epochs=3,
    width_trials=32,
    slots=(16,),
    slots_trials=32,
    segments=3,
    with_dropout=False,
    stopped_trials=64,
    stopped_steps=192,
    tiny=(128,),
)
