"""The published Python SDK against a runtime: `sdk.py SCENARIO ADDRESS TOKEN`."""

import asyncio
import sys

import arcp
from arcp.client import ARCPClient

SCENARIO, ADDRESS, TOKEN = sys.argv[1:4]


async def connect(token=TOKEN, resume=None):
    transport = await arcp.WebSocketTransport.connect(f"ws://{ADDRESS}/arcp")
    client = ARCPClient(client=arcp.ClientInfo(name="sdk-test", version="1"), token=token)
    if resume is None:
        await client.connect(transport)
    else:
        await client.resume(transport, resume=resume)
    return client, transport


async def expect(error, awaitable):
    try:
        await awaitable
    except error as caught:
        return caught
    raise AssertionError(f"expected {error.__name__}")


async def handshake():
    client, _ = await connect()
    assert client.welcome.runtime.name == "arcpd"
    assert client.has_feature("subscribe") and client.has_feature("result_chunk")
    await client.close()


async def bad_token():
    await expect(arcp.UnauthenticatedError, connect(token="not-a-token-of-anybody"))


async def submit_and_events():
    client, _ = await connect()
    handle = await client.submit(agent="ticker", input={"count": 20, "interval_ms": 1})
    ticks = [e["body"]["current"] async for e in handle.events() if e["kind"] == "progress"]
    assert ticks == list(range(1, 21)), ticks
    done = await handle.done
    assert done.final_status == "success" and done.result == {"ticks": 20}, done
    assert handle.agent_ref == "ticker@1.0.0" and len(handle.trace_id) == 32
    await client.close()


async def chunked_result():
    client, _ = await connect()
    for agent in ("report@1.0.0", "report@2.0.0"):
        handle = await client.submit(agent=agent, input={"bytes": 1_500_000, "chunk_bytes": 400_000})
        data = await handle.collect_chunks()
        assert len(data) == 1_500_000 and data.startswith(b"0123456789abc"), len(data)
        done = await handle.done
        assert done.result_id and done.result_size == 1_500_000, done
    await client.close()


async def cancel():
    client, _ = await connect()
    handle = await client.submit(agent="sleeper", input={"ms": 600_000})
    await client.cancel_job(handle.job_id)
    await expect(arcp.CancelledError, handle.done)
    # The session is none the worse.
    handle = await client.submit(agent="echo", input=1)
    assert (await handle.done).result == 1
    await client.close()


async def timeout():
    client, _ = await connect()
    handle = await client.submit(agent="sleeper", input={"ms": 600_000}, max_runtime_sec=1)
    await expect(arcp.TimeoutError, handle.done)
    await client.close()


async def failed_job():
    client, _ = await connect()
    handle = await client.submit(agent="failer", input={"code": "PERMISSION_DENIED", "message": "no"})
    await expect(arcp.PermissionDeniedError, handle.done)
    await client.close()


async def rejected_submit():
    client, _ = await connect()
    await expect(arcp.AgentNotAvailableError, client.submit(agent="nobody", input=None))
    # With another job alive the refusal must not end that job's handle.
    alive = await client.submit(agent="sleeper", input={"ms": 300})
    refused = await client.submit(agent="nobody", input=None)
    await expect(arcp.AgentNotAvailableError, refused.done)
    assert (await alive.done).final_status == "success"
    await client.close()


async def list_jobs():
    client, _ = await connect()
    handle = await client.submit(agent="echo", input={"a": 1})
    await handle.done
    listed = await client.list_jobs()
    assert handle.job_id in [job.job_id for job in listed.jobs], listed
    page = await client.list_jobs(filter=arcp.ListJobsFilter(status=["running"]), limit=5)
    assert page.jobs == () or list(page.jobs) == [], page
    await client.close()


async def subscribe_with_history():
    owner, _ = await connect()
    handle = await owner.submit(agent="ticker", input={"count": 30, "interval_ms": 10})
    seen = []
    async for event in handle.events():
        seen.append(event)
        if len(seen) == 10:
            break
    observer, _ = await connect()
    subscription = await observer.subscribe(handle.job_id, history=True)
    ticks = [e["body"]["current"] async for e in subscription.handle.events()]
    assert ticks == list(range(1, 31)), ticks
    assert (await subscription.handle.done).result == {"ticks": 30}
    # Over already: history and the terminal still come.
    late, _ = await connect()
    subscription = await late.subscribe(handle.job_id, history=True)
    ticks = [e["body"]["current"] async for e in subscription.handle.events()]
    assert ticks == list(range(1, 31)), ticks
    for client in (owner, observer, late):
        await client.close()


async def resume():
    client, transport = await connect()
    handle = await client.submit(agent="ticker", input={"count": 60, "interval_ms": 5})
    seen = 0
    async for _ in handle.events():
        seen += 1
        if seen == 10:
            break
    point = arcp.SessionResume(
        session_id=client.session_id,
        resume_token=client.welcome.resume_token,
        last_event_seq=client.latest_event_seq,
    )
    before = client.latest_event_seq
    transport._conn.transport.abort()
    # The SDK keeps no handles over a resume, so the envelopes themselves are looked at.
    seqs = []
    dispatch = ARCPClient._dispatch

    async def record(self, envelope):
        if envelope.event_seq is not None:
            seqs.append(envelope.event_seq)
            if envelope.type in ("job.result", "job.error"):
                ended.set()
        await dispatch(self, envelope)

    ARCPClient._dispatch = record
    ended = asyncio.Event()
    resumed, _ = await connect(resume=point)
    assert resumed.session_id == point.session_id
    assert resumed.welcome.resume_token != point.resume_token
    await ended.wait()
    assert seqs == list(range(before + 1, 62)), seqs
    await resumed.close()


async def concurrent_submits():
    client, _ = await connect()
    handles = await asyncio.gather(*(client.submit(agent="echo", input=n) for n in range(50)))
    results = [(await handle.done).result for handle in handles]
    assert results == list(range(50)), results
    assert len({handle.job_id for handle in handles}) == 50
    same = await asyncio.gather(
        *(client.submit(agent="echo", input=1, idempotency_key="one") for _ in range(5))
    )
    assert len({handle.job_id for handle in same}) == 1
    await client.close()


asyncio.run(asyncio.wait_for(globals()[SCENARIO](), 40))
