"""A host and a client with OpenTelemetry's own SDK: `traced.py host NAME`, or
`traced.py client TOKEN`, which asks for the job `boss`."""

import json
import os
import sys

import grpc
from opentelemetry import baggage, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

# The service is named by OTEL_SERVICE_NAME, the collector by its own variable.
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(insecure=True)))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("tests")


def host(name: str) -> None:
    from arcpd_agent import Job, agent, run

    def context(job: Job):
        said = {
            "traceparent": job.traceparent,
            "tracestate": job.tracestate,
            "baggage": job.baggage,
        }
        return propagate.extract(said)

    @agent("boss", version="1.0.0")
    def boss(job: Job) -> object:
        with tracer.start_as_current_span("plan", context(job)):
            with tracer.start_as_current_span("ask the model"):
                with job.tool("search") as call:
                    call.result = baggage.get_baggage("tenant")
        return job.delegate("worker", call.result).result()

    @agent("worker", version="1.0.0")
    def worker(job: Job) -> object:
        with tracer.start_as_current_span("work", context(job)) as span:
            span.set_attribute("tenant", baggage.get_baggage("tenant", context(job)) or "")
        return job.input

    @agent("steps", version="1.0.0", loss_policy="retry")
    def steps(job: Job) -> object:
        with tracer.start_as_current_span(f"attempt {job.attempt}", context(job)):
            pass
        job.log("ready")
        if job.attempt == 1:
            job.cancelled.wait()
        return name

    run(name=name)


def client(token: str) -> None:
    from arcp.v1 import job_service_pb2 as pb
    from arcp.v1 import job_service_pb2_grpc as rpc

    address = os.environ["ARCPD_SERVER"].removeprefix("http://")
    with grpc.insecure_channel(address) as channel:
        jobs = rpc.JobServiceStub(channel)
        context = baggage.set_baggage("tenant", "t1")
        with tracer.start_as_current_span("ask", context, kind=trace.SpanKind.CLIENT):
            said: dict[str, str] = {}
            propagate.inject(said, baggage.set_baggage("tenant", "t1"))
            metadata = [("authorization", f"Bearer {token}"), *said.items()]
            lease = json.dumps({"agent.delegate": ["worker"]})
            request = pb.SubmitJobRequest(
                agent="boss", input_json="1", lease_request_json=lease
            )
            job = jobs.SubmitJob(request, metadata=metadata).job
            for _ in jobs.WatchJob(pb.WatchJobRequest(job_id=job.job_id), metadata=metadata):
                pass
    print(f"over {job.trace_id}", file=sys.stderr, flush=True)


{"host": host, "client": client}[sys.argv[1]](sys.argv[2])
