"""A pod is moved from another agent's rules to Weir's and back under load, killed at every step: nobody notices."""

import time
from pathlib import Path

import pytest

from netns_tests.migrating import AGENTS, steps
from netns_tests.migration_load import Round
from netns_tests.migration_scene import Scene
from netns_tests.migration_streams import LASTING, LONG
from netns_tests.world import World

BACK = "--back"
# Every run compares the rules anew until the old ones go, which takes seconds for Istio: theirs are for the long run.
KILLED = tuple(AGENTS) if LONG else ("weir-legacy", "cilium-nft")
# What takes several changes of its own is killed between them as well, some seconds after it has begun.
LONG_STEPS = {"table": 0.003, "remove": 0.02, "old-rules-back": 0.02, "old-dns-back": 0.01}


def migrated_and_returned(scene: Scene) -> tuple[list[str], list[str]]:
    """Migrate and go back under load, without a kill, and return the steps of both."""
    with scene.load() as running:
        there = steps(scene.migrate(said=running.note))
        running.more()
        back = steps(scene.back(said=running.note))
    assert len(there) > 4
    assert len(back) > 4
    return there, back


def kill(scene: Scene, running: Round, step: str, order: list[str], *direction: str, into: float = 0.0) -> None:
    """Kill the command where a step begins, or some seconds after."""
    where = f"{' '.join(direction)} killed at {step} and {into * 1000:g} ms"
    running.note(f"to be {where}")
    scene.migration.killed_at(step, order, *direction, into=into)
    running.note(where)
    running.more(5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in AGENTS if name not in KILLED or LONG])
def test_nobody_notices_a_migration_and_its_return(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path) as scene:
        began = time.monotonic()
        migrated_and_returned(scene)
        time.sleep(max(0.0, LASTING - (time.monotonic() - began)))  # as long as the streams are to last
        scene.finish()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KILLED)
def test_nobody_notices_kills_at_each_step_in_a_row(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path) as scene:
        began = time.monotonic()
        there, back = migrated_and_returned(scene)
        for order, direction in ((there, ()), (back, (BACK,))):
            with scene.load() as running:
                for step in order:
                    kill(scene, running, step, order, *direction)
                    if step in LONG_STEPS:
                        kill(scene, running, step, order, *direction, into=LONG_STEPS[step])
                running.note("to the end")
                if direction:
                    scene.back(said=running.note)
                else:
                    scene.migrate(said=running.note)
        time.sleep(max(0.0, LASTING - (time.monotonic() - began)))  # as long as the streams are to last
        scene.finish()


@pytest.mark.skipif(not LONG, reason="takes many minutes: asked for by WEIR_LONG=1")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", AGENTS)
def test_the_same_command_finishes_after_a_kill_at_any_step(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path) as scene:
        there, back = migrated_and_returned(scene)
        for step in there:
            with scene.load() as running:
                kill(scene, running, step, there)
                scene.migrate(said=running.note)
                running.more()
                scene.back(said=running.note)
        for step in back:
            with scene.load() as running:
                scene.migrate(said=running.note)
                kill(scene, running, step, back, BACK)
                scene.back(said=running.note)
        scene.finish()
