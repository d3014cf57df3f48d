"""The published Python SDK against a runtime: `sdk.py SCENARIO ADDRESS TOKEN`."""

import asyncio
import sys
from datetime import datetime, timedelta, timezone

import arcp
from arcp.client import ARCPClient

SCENARIO, ADDRESS, TOKEN = sys.argv[1:4]


async def connect(token=TOKEN, resume=None, features=None):
    transport = await arcp.WebSocketTransport.connect(f"ws://{ADDRESS}/arcp")
    client = ARCPClient(client=arcp.ClientInfo(name="sdk-test", version="1"), token=token, features=features)
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


def in_seconds(seconds):
    at = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def op(capability, target):
    return {"capability": capability, "target": target}


async def tool_results(handle):
    """Call to error code, or None where it was allowed."""
    events = [e["body"] async for e in handle.events() if e["kind"] == "tool_result"]
    return {body["call_id"]: body.get("error", {}).get("code") for body in events}


async def lease():
    client, _ = await connect()
    handle = await client.submit(
        agent="toolbox",
        input={"ops": [op("net.fetch", "https://api.example.com/v1/x"), op("net.fetch", "https://example.org/")]},
        lease_request={"net.fetch": ["HTTPS://*.example.com:443/v1/**"]},
    )
    assert handle.lease == {"net.fetch": ["https://*.example.com/v1/**"]}, handle.lease
    assert handle.lease_constraints is None and handle.budget is None
    assert await tool_results(handle) == {"op-1": None, "op-2": "PERMISSION_DENIED"}
    assert (await handle.done).result["allowed"] == 1
    await client.close()


async def refused_lease():
    client, _ = await connect()
    submit = client.submit(agent="echo", lease_request={"fs.read": ["/w/../etc"]})
    error = await expect(arcp.InvalidRequestError, submit)
    assert "lease_request.fs.read[0]" in str(error), error
    await client.close()


async def budget():
    client, _ = await connect()
    handle = await client.submit(
        agent="spender",
        input={"currency": "USD", "per_step": 0.1, "steps": 9},
        lease_request={"tool.call": ["spend"], "cost.budget": ["USD:0.30", "credits:7"]},
    )
    # As the SDK has it: the amount with its currency, as text.
    assert handle.budget == {"USD": "USD:0.3", "credits": "credits:7"}, handle.budget
    left, refused = [], []
    async for event in handle.events():
        body = event["body"]
        if event["kind"] == "metric" and body["name"] == "cost.budget.remaining":
            left.append((body["unit"], body["value"]))
        elif event["kind"] == "tool_result" and "error" in body:
            refused.append(body["error"]["code"])
    assert left == [("USD", 0.2), ("USD", 0.1), ("USD", 0)], left
    assert refused == ["BUDGET_EXHAUSTED"], refused
    assert (await handle.done).result == {"steps": 3, "stopped": "budget"}
    # The same client reads the budgets of others' listings and subscriptions.
    subscription = await client.subscribe(handle.job_id, history=True)
    assert (await subscription.handle.done).result["steps"] == 3
    [job] = (await client.list_jobs()).jobs
    assert job.job_id == handle.job_id
    await client.close()


async def budget_exhausted():
    client, _ = await connect()
    handle = await client.submit(agent="failer", input={"code": "BUDGET_EXHAUSTED", "message": "no more"})
    error = await expect(arcp.BudgetExhaustedError, handle.done)
    assert error.retryable is False, error
    await client.close()


async def lease_expired():
    client, _ = await connect()
    expires_at = in_seconds(1)
    handle = await client.submit(
        agent="sleeper",
        input={"ms": 600_000},
        lease_constraints=arcp.LeaseConstraints(expires_at=expires_at),
    )
    assert handle.lease_constraints.expires_at[:22] == expires_at[:22], handle.lease_constraints
    error = await expect(arcp.LeaseExpiredError, handle.done)
    assert error.retryable is False, error
    past = arcp.LeaseConstraints(expires_at="2020-01-01T00:00:00Z")
    await expect(arcp.InvalidRequestError, client.submit(agent="echo", lease_constraints=past))
    await client.close()


async def model_use():
    # The SDK offers it only where it is told to.
    client, _ = await connect(features=(*arcp.V1_1_FEATURES, "model.use"))
    assert client.has_feature("model.use")
    handle = await client.submit(
        agent="toolbox",
        input={"ops": [op("model.use", "acme/small"), op("model.use", "acme/large")]},
        lease_request={"model.use": ["acme/small*"]},
    )
    assert await tool_results(handle) == {"op-1": None, "op-2": "PERMISSION_DENIED"}
    await client.close()


async def delegation():
    client, _ = await connect()
    handle = await client.submit(
        agent="delegator",
        input={"agent": "echo", "input": {"n": 7}, "times": 2},
        lease_request={"agent.delegate": ["echo"]},
    )
    delegated = [e["body"] async for e in handle.events() if e["kind"] == "delegate"]
    children = [body["child_job_id"] for body in delegated]
    assert sorted(body["delegate_id"] for body in delegated) == ["child-1", "child-2"], delegated
    assert len((await handle.done).result["children"]) == 2
    for child in children:
        subscription = await client.subscribe(child, history=True)
        assert (await subscription.handle.done).result == {"n": 7}
    jobs = {job.job_id: job for job in (await client.list_jobs()).jobs}
    assert [jobs[child].parent_job_id for child in children] == [handle.job_id] * 2
    # More than the parent has is refused in its stream, and it goes on.
    handle = await client.submit(
        agent="delegator",
        input={"agent": "echo", "input": 1, "lease_request": {"fs.read": ["/**"]}},
        lease_request={"agent.delegate": ["echo"]},
    )
    assert await tool_results(handle) == {"child-1": "LEASE_SUBSET_VIOLATION"}
    assert (await handle.done).final_status == "success"
    await client.close()


async def no_credentials():
    client, _ = await connect(features=(*arcp.V1_1_FEATURES, "provisioned_credentials"))
    assert not client.has_feature("provisioned_credentials"), "there is no provisioner"
    handle = await client.submit(agent="echo", input=1, lease_request={"tool.call": ["a"]})
    assert handle.credentials == ()
    await client.close()


async def credentials():
    """With a provisioner, whose keys begin with `sk-virt-`."""
    features = (*arcp.V1_1_FEATURES, "model.use", "provisioned_credentials")
    client, _ = await connect(features=features)
    assert client.has_feature("provisioned_credentials")
    handle = await client.submit(
        agent="sleeper",
        input={"ms": 600_000},
        lease_request={"model.use": ["tier-fast/*"], "cost.budget": ["USD:5"]},
    )
    [credential] = handle.credentials
    assert credential.value.startswith("sk-virt-"), credential.id
    assert credential.endpoint.startswith("http://") and credential.profile == "openai"
    assert credential.constraints.cost_budget == ("USD:5",), credential.constraints
    assert credential.constraints.model_use == ("tier-fast/a", "tier-fast/b")
    async for event in handle.events():
        if event["kind"] == "status" and event["body"]["phase"] == "credential_rotated":
            rotated = event["body"]
            break
    assert rotated["id"] == credential.id, rotated
    assert rotated["value"].startswith("sk-virt-") and rotated["value"] != credential.value
    # Another client of the same principal watches, and is shown neither.
    other, _ = await connect(features=features)
    subscription = await other.subscribe(handle.job_id, history=True)
    assert subscription.handle.credentials == ()
    async for event in subscription.handle.events():
        if event["kind"] == "status" and event["body"]["phase"] == "credential_rotated":
            assert event["body"].get("value") is None, event["body"]["phase"]
            break
    await other.close()
    await client.cancel_job(handle.job_id)
    await expect(arcp.CancelledError, handle.done)
    await client.close()


asyncio.run(asyncio.wait_for(globals()[SCENARIO](), 40))
