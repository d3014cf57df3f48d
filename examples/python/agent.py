"""`word-count`: reads text, reports progress, calls a tool, streams its result."""

import os

from arcpd_agent import Failed, Job, agent, run


@agent(os.environ.get("ARCP_AGENT", "word-count"), version="1.0.0")
def word_count(job: Job) -> str:
    """Counts the words of `text`; `step_ms` slows it down to be watched."""
    if not isinstance(job.input, dict) or not isinstance(job.input.get("text"), str):
        raise Failed("INVALID_REQUEST", "input: must be {\"text\": …}")
    text, words = job.input["text"], 0
    lines = text.splitlines()
    step = 1 + len(lines) // 20
    for start in range(0, len(lines), step):
        words += sum(len(line.split()) for line in lines[start : start + step])
        job.progress(min(start + step, len(lines)), total=len(lines), units="lines")
        # In place of a sleep: a cancel ends it at once.
        job.cancelled.wait(job.input.get("step_ms", 0) / 1000)
    with job.tool("measure", {}) as call:
        call.result = len(text.encode())
    job.write(f'{{"lines": {len(lines)}')
    job.write(f', "words": {words}')
    job.write(f', "bytes": {call.result}}}')
    return f"{words} words"


run(name="example-python")
