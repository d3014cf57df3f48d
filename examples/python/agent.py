"""`word-count`: reads text, reports progress, calls a tool, streams its result."""

from collections import Counter

from arcpd_agent import Failed, Job, agent, run


@agent("word-count", version="1.0.0", loss_policy="retry")
def word_count(job: Job) -> str:
    """Counts the words of `text`; `step_ms` slows it down to be watched."""
    if not isinstance(job.input, dict) or not isinstance(job.input.get("text"), str):
        raise Failed("INVALID_REQUEST", "input: must be {\"text\": …}")
    lines = job.input["text"].splitlines()
    counts: Counter[str] = Counter()
    for n, line in enumerate(lines, start=1):
        with job.tool("split-words", {"line": n}) as call:
            words = line.lower().split()
            call.result = {"words": len(words)}
        counts.update(words)
        job.progress(n, total=len(lines), units="lines")
        # In place of a sleep: a cancel ends it at once.
        job.cancelled.wait(job.input.get("step_ms", 0) / 1000)
    for word, times in counts.most_common():
        job.write(f"{times} {word}\n")
    return f"{counts.total()} words, {len(counts)} different ones"


run(name="example-python")
