"""A host for the tests: `host.py NAME POLICY`. What it is told to stop, it says on stderr."""

import sys

from arcpd_agent import Job, Stopped, agent, run

NAME, POLICY = sys.argv[1:3]


@agent("steps", version="1.0.0", loss_policy=POLICY)
def steps(job: Job) -> object:
    """Reports each of `upto` steps, and the place it would go on from."""
    first = int(job.checkpoint or b"0")
    try:
        for step in range(first, job.input["upto"]):
            job.log(f"{NAME} {job.attempt} {step}")
            job.save_checkpoint(str(step + 1).encode())
            # Time to be killed in; a cancel ends it at once.
            job.cancelled.wait(job.input["step_ms"] / 1000)
    except Stopped as stopped:
        print(f"stopped: {type(stopped).__name__}", file=sys.stderr, flush=True)
        raise
    return {"by": NAME}


@agent("busy", version="1.0.0")
def busy(job: Job) -> None:
    """Keeps the processor, and looks up now and then."""
    turns = 0
    while not job.cancelled.is_set():
        sum(range(10_000))
        turns += 1
        if turns % 100 == 1:
            job.progress(turns)


run(name=NAME)
