"""`research`: asks before each page, says what it has spent, and delegates the counting."""

from arcpd_agent import Job, Refused, agent, run


@agent("count-words", version="1.0.0")
def count_words(job: Job) -> object:
    return {"words": len(job.input["text"].split())}


@agent("research", version="1.0.0")
def research(job: Job) -> object:
    """Counts the words of `pages` (URL to text), as far as the lease and the budget go."""
    children, refused = [], []
    for url, text in job.input["pages"].items():
        try:
            with job.tool("read", {"url": url}) as call:
                call.authorize("net.fetch", url)
                # Here a real agent would fetch it.
                call.result = {"characters": len(text)}
            # Counted before the next page is asked for.
            job.cost("page", 0.01, "USD")
            children.append(job.delegate("count-words", {"text": text}))
        except Refused as no:
            refused.append({"url": url, "code": no.code})
    # All of them run by now; the first error would be this job's, too.
    words = sum(child.result()["words"] for child in children)
    return {"words": words, "refused": refused}


run(name="example-python-research")
