"""What nights on growing data cost, and who is champion the morning after.

    python -m benchmarks.nights [--images 40] [--size 128] [--total-timesteps 2000] [--store s3://BUCKET/PREFIX]
    python -m benchmarks.nights --large

Every night is a process of its own on a machine with an empty disk: what earlier nights have computed comes
from the store. Without `--store` a SeaweedFS server is started, and a proxy before it counts the requests;
with it the usual AWS_* variables lead to the store, and what is made there stays. The nights: a champion is
made of two poor thresholds; nothing is new; ten photographs more; a good threshold more, which beats the
champion; after a rollback nothing is new; ten photographs of another camera; a threshold more that hardly
matters. `--large`: 1,000 small photographs and then ten more.

Exit code 1 when a known (image, prompt) pair is computed again, an idle night takes more than `MOST_IDLE_S`,
or the champion is not the one that follows from the nights' decisions.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from job.storage import s3_client
from tests.e2e.nights import PROMPTS, Album, Clinic, Night
from tests.fault_proxy import FaultProxy, open_proxy
from tests.s3_server import serve

MORE = 10
MOST_IDLE_S = 10.0
HEADER = f"{'night':<30} {'images':>6} {'calls':>6} {'seconds':>8} {'requests':>8}  {'decision':<12} champion"
FEW_STEPS = {"total_timesteps": 64, "n_steps": 16, "batch_size": 16, "seeds": 1}


@dataclass
class Diary:
    """Runs nights, prints a line for each, and notes what is not as it must be."""

    clinic: Clinic
    album: Album
    proxy: FaultProxy | None
    wrong: list[str] = field(default_factory=list)
    nights: int = 0

    def show(self, n_images: int) -> None:
        """Bring photographs to the store."""
        self.album.show(self.clinic.store, n_images)

    def night(self, what: str, spec: Mapping[str, Any], *, new_images: int | None) -> Night:
        """Run a night; `new_images` None: nothing is new."""
        self.nights += 1
        before, asked = self.clinic.champion, self._requests()
        night = self.clinic.night(spec, f"night-{self.nights}")
        said = night.ended.named("job.nothing_new")
        decision = night.info["promotion"]["decision"] if night.run else "nothing new" if said else "failed"
        requests = "-" if self.proxy is None else f"{self._requests() - asked:,}"
        print(
            f"{self.nights}: {what:<27} {self.album.shown:>6,} {night.model_calls:>6,} {night.seconds:>8.1f}"
            f" {requests:>8}  {decision:<12} {self._in_use()}",
            flush=True,
        )
        self._check(night, new_images, decision, before.generation if before else 0)
        return night

    def note(self, what: str) -> None:
        """Print a line between nights."""
        print(f"   {what}", flush=True)

    def command(self, *arguments: str, machine: Path) -> str:
        """Run a verb; returns what it prints."""
        done = self.clinic.command(*arguments, machine=machine)
        if done.code:
            self.wrong.append(f"{' '.join(arguments)} ended with {done.code}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _check(self, night: Night, new_images: int | None, decision: str, generation: int) -> None:
        which = f"night {self.nights}"
        if decision == "failed":
            self.wrong.append(f"{which} failed: {night.ended.stderr.strip()[-500:]}")
        if (new_images is None) != (decision == "nothing new"):
            self.wrong.append(f"{which}: {decision}")
        if new_images is None and night.seconds > MOST_IDLE_S:
            self.wrong.append(f"{which} took {night.seconds:.1f} s to find nothing new")
        if night.model_calls != (new_images or 0) * len(PROMPTS):
            self.wrong.append(f"{which} computed {night.model_calls} pairs for {new_images or 0} new images")
        after = night.champion.generation if night.champion else 0
        if after != generation + (decision == "promote"):
            self.wrong.append(f"{which}: {decision}, and the champion's generation is {after}")

    def _in_use(self) -> str:
        champion = self.clinic.champion
        if champion is None:
            return "none"
        followed = "".join(f" <- {reign.run.rpartition('/')[2]}" for reign in champion.followed)
        return f"generation {champion.generation}: {champion.current.run.rpartition('/')[2]}{followed}"

    def _requests(self) -> int:
        return 0 if self.proxy is None else self.proxy.count()


def few_nights(diary: Diary, n_images: int, finetune: Mapping[str, int], machine: Path) -> None:
    """Live through all that the module's docstring tells."""
    clinic = diary.clinic
    poor, good, odd = (
        clinic.spec(thresholds, **finetune)
        for thresholds in ((0.97, 0.9), (0.97, 0.9, 0.5), (0.97, 0.9, 0.5, 0.49))
    )
    diary.show(n_images)
    diary.night("two poor thresholds", poor, new_images=n_images)
    diary.night("nothing new", poor, new_images=None)
    diary.show(n_images + MORE)
    diary.night(f"{MORE} photographs more", poor, new_images=MORE)
    diary.night("a good threshold more", good, new_images=0)
    pictures = str(diary.album.pictures(range(2), machine / "pictures"))
    for masks in ("masks", "masks after the rollback"):
        diary.note(
            diary.command("predict", "--model", clinic.model, pictures, "--output", masks, machine=machine)
        )
        rows = (machine / masks / "predictions.csv").read_text().splitlines()
        diary.note(f"predict --model: {rows[1]}")
        if masks == "masks":
            diary.note(diary.command("promote", clinic.model, "--to", "previous", machine=machine))
    diary.night("nothing new after a rollback", good, new_images=None)
    diary.show(n_images + 2 * MORE)
    drifted = diary.night("another camera", good, new_images=MORE)
    diary.note(drifted.info["promotion"]["sentence"])
    diary.note(drifted.info["promotion"]["drift"]["sentence"])
    alike = diary.night("a threshold hardly different", odd, new_images=0)
    diary.note(alike.info["promotion"]["sentence"])
    diary.note(diary.command("status", clinic.results, machine=machine).replace("\n", "\n   "))


def large_nights(diary: Diary, n_images: int) -> None:
    """Ten new photographs among a thousand, and what it takes to bring back what is known of the others."""
    spec = diary.clinic.spec((0.97, 0.9), **FEW_STEPS)
    diary.show(n_images)
    diary.night("two poor thresholds", spec, new_images=n_images)
    diary.show(n_images + MORE)
    seen = 0 if diary.proxy is None else len(diary.proxy.seen)
    night = diary.night(f"{MORE} photographs more", spec, new_images=MORE)
    for event in night.ended.named("pull.fetched"):
        diary.note(
            f"fetched {event['files']:,} files, {event['bytes'] / 1e6:.1f} MB, of {event['uri']} by"
            f" {event['timestamp']}"
        )
    for event in night.ended.named("store.restored"):
        diary.note(
            f"restored {event['what']}: {event['files']:,} files, {event['bytes'] / 1e6:.1f} MB in"
            f" {event['seconds']:.2f} s"
        )
    for event in night.ended.named("stage.finished"):
        diary.note(f"stage {event['stage']}: {event['seconds']:.1f} s")
    if diary.proxy is not None:
        counts: dict[str, int] = {}
        for one in diary.proxy.seen[seen:]:
            counts[one.operation] = counts.get(one.operation, 0) + 1
        diary.note(", ".join(f"{n:,} {operation}" for operation, n in sorted(counts.items())))


@contextmanager
def opened(place: Path, uri: str | None, timeout_s: float) -> Iterator[tuple[Clinic, FaultProxy | None]]:
    """Provide the store: the given one, or a server that ends with the block."""
    if uri is not None:
        yield Clinic(uri.rstrip("/"), {}, timeout_s), None
        return
    with serve(place / "server") as server, open_proxy(server) as proxy:
        environment = {**server.environment, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        os.environ.update(server.environment)  # this process talks past the proxy, uncounted
        s3_client.forget()
        yield Clinic(f"s3://{server.bucket}/nights", environment, timeout_s), proxy


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, help="in the first night (40; 1,000 with --large)")
    parser.add_argument("--size", type=int, help="pixels a side (128; 64 with --large)")
    parser.add_argument("--total-timesteps", type=int, default=2_000)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--store", metavar="URI", help="an empty place")
    parser.add_argument(
        "--timeout", type=float, default=1200.0, help="seconds a night (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Live through the nights and say what is wrong."""
    options = parsed(sys.argv[1:])
    n_images = options.images or (1000 if options.large else 40)
    size = options.size or (64 if options.large else 128)
    with tempfile.TemporaryDirectory() as name, opened(Path(name), options.store, options.timeout) as found:
        album = Album(Path(name, "album"), n_images + (1 if options.large else 2) * MORE, size)
        print(
            f"{len(PROMPTS)} prompts, {size} x {size} px, load {os.getloadavg()[0]:.1f}\n{HEADER}", flush=True
        )
        diary = Diary(found[0], album, found[1])
        if options.large:
            large_nights(diary, n_images)
        else:
            album.veil(range(n_images + MORE, n_images + 2 * MORE))
            few_nights(diary, n_images, {"total_timesteps": options.total_timesteps, "seeds": 1}, Path(name))
    for wrong in diary.wrong:
        print(f"WRONG: {wrong}")
    return int(bool(diary.wrong))


if __name__ == "__main__":
    sys.exit(main())
