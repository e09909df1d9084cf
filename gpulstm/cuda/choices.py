"""What `gpulstm.cuda.planner` is told of a GPU, and what it answers."""

from typing import NamedTuple


class Device(NamedTuple):
    """What the planner has to know of a GPU."""

    capability: int  # 90 for compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # that one block can have
    cooperative: bool  # whether all blocks of a launch can be made to run at the same time
    given_up: tuple[tuple[str, str], ...] = ()  # schedules that have failed on it, and why: they are not taken again

    def why_not(self, schedule: str) -> str:
        """Why a schedule has been given up; empty if it has not."""
        return "".join(f"is given up on this device, since {why}" for name, why in self.given_up if name == schedule)


class Choice(NamedTuple):
    """One pass's schedule, and why. The numbers are 0 for schedules that are not one launch for all steps."""

    schedule: str
    reason: str
    kernel: str = ""
    tiles: tuple[int, ...] = ()  # as `catalogue.TILES` names them
    blocks: int = 0  # of a group
    groups: int = 0  # parts of the batch that do not wait for each other
    share: int = 0  # sequences of a group
    microseconds: float = 0.0  # predicted, per time step
    arithmetic: str = ""  # that the kernel is compiled for
    directions: int = 1  # that a launch runs side by side, each of them in that many groups
    layers: int = 1  # the same of layers on top of each other

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.schedule}: {self.reason}"
        blocks = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        sequences = "1 sequence" if self.share == 1 else f"{self.share} sequences"
        directions = "" if self.directions == 1 else f"{self.directions} directions x "
        directions += "" if self.layers == 1 else f"{self.layers} layers x "
        return f"{self.schedule}: {directions}{self.groups} x {blocks}, {sequences} each; {self.reason}"

    def explained(self, device: Device) -> "Choice":
        """The same, whose reason names what the device has given up."""
        if not device.given_up:
            return self
        given_up = [f"{name} {device.why_not(name)}" for name, _ in device.given_up]
        return self._replace(reason="; ".join([self.reason, *(why for why in given_up if why not in self.reason)]))


class Plan(NamedTuple):
    """How a layer runs forward, and back; and forward in inference, which differs for a single step, and where
    what acts in training alone, masks or checkpoints, keeps a schedule from the forward pass."""

    forward: Choice
    backward: Choice
    inference: Choice | None = None  # None as forward

    def __str__(self) -> str:
        lines = f"forward  {self.forward}\nbackward {self.backward}"
        return lines if self.inference in (None, self.forward) else f"{lines}\ninference {self.inference}"
