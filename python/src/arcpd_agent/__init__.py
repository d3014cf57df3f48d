"""Agents for arcpd.

    from arcpd_agent import Job, agent, run

    @agent("word-count", version="1.0.0")
    def word_count(job: Job) -> object:
        job.progress(1, total=1)
        return {"words": len(job.input["text"].split())}

    run()
"""

from .agent import Agent, agent
from .credential import Credential
from .errors import Cancelled, Failed, Fenced, Refused, Stopped
from .host import Host, run
from .job import Job, ToolCall
from .question import Child

__all__ = [
    "Agent",
    "Cancelled",
    "Child",
    "Credential",
    "Failed",
    "Fenced",
    "Host",
    "Job",
    "Refused",
    "Stopped",
    "ToolCall",
    "agent",
    "run",
]
