"""What nobody waits for lets others go first."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from agent.daemon.threads import Threads


def test_what_nobody_waits_for_follows_a_pods_start() -> None:
    heard = list[str]()

    async def told() -> None:
        with ThreadPoolExecutor(1) as workers, ThreadPoolExecutor(1) as afterwards:
            threads = Threads(workers=workers, afterwards=afterwards)
            with threads.waited_for():
                behind = asyncio.create_task(threads.follow_up(heard.append, "behind"))
                await threads.work(heard.append, "a step")
                await asyncio.sleep(0.05)
                heard.append("answered")
            await behind

    asyncio.run(told())
    assert heard == ["a step", "answered", "behind"]


def test_what_nobody_waits_for_is_done_even_where_a_start_takes_for_ever() -> None:
    heard = list[str]()

    async def told() -> None:
        with ThreadPoolExecutor(1) as workers, ThreadPoolExecutor(1) as afterwards:
            threads = Threads(workers=workers, afterwards=afterwards)
            with threads.waited_for():
                await threads.follow_up(heard.append, "behind")

    asyncio.run(told())
    assert heard == ["behind"]
