import arcp.v1.EnvelopeOuterClass.*;
import arcp.v1.RuntimeServiceGrpc;
import arcp.v1.RuntimeServiceOuterClass.*;
import com.google.gson.Gson;
import io.grpc.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.TimeUnit;

/** Client AGENT FILE [STEP_MS]: submits a text, follows the job through dropped connections, prints its result. */
class Client {
    static Resume resume; // set by each welcome: the session outlives its connection
    static boolean accepted;
    static final StringBuilder result = new StringBuilder();

    public static void main(String[] args) throws Exception {
        var input = Map.of("text", Files.readString(Path.of(args[1])), "step_ms", args.length > 2 ? Long.parseLong(args[2]) : 0);
        var submit = JobSubmit.newBuilder().setAgent(args[0]).setInputJson(new Gson().toJson(input))
            .setIdempotencyKey(UUID.randomUUID().toString()).build(); // sent twice, it is one job
        var channel = Grpc.newChannelBuilder(System.getenv("ARCPD_SERVER"), InsecureChannelCredentials.create())
            .keepAliveTime(20, TimeUnit.SECONDS).build();
        while (true) {
            try {
                follow(RuntimeServiceGrpc.newBlockingV2Stub(channel), submit);
            } catch (StatusException error) {
                System.err.println("dialing again: " + error.getMessage());
            }
            Thread.sleep(500);
        }
    }

    /** Until the job or the connection ends. */
    static void follow(RuntimeServiceGrpc.RuntimeServiceBlockingV2Stub stub, JobSubmit submit) throws Exception {
        var stream = stub.session();
        var hello = SessionHello.newBuilder().setClientName("java-example").setClientVersion("1").setAuthScheme("bearer")
            .setAuthToken(System.getenv("ARCPD_TOKEN")).addAllFeatures(List.of("progress", "result_chunk"));
        if (resume != null) hello.setResume(resume);
        stream.write(request(Envelope.newBuilder().setSessionHello(hello)));
        for (SessionResponse response; (response = stream.read()) != null; ) {
            for (var envelope : response.getEnvelopesList()) {
                if (envelope.getEventSeq() > 0) resume = resume.toBuilder().setLastEventSeq(envelope.getEventSeq()).build();
                switch (envelope.getPayloadCase()) {
                    case SESSION_WELCOME -> {
                        resume = (resume == null ? Resume.newBuilder() : resume.toBuilder()).setSessionId(envelope.getSessionId())
                            .setResumeToken(envelope.getSessionWelcome().getResumeToken()).build();
                        if (!accepted) stream.write(request(Envelope.newBuilder().setSessionId(envelope.getSessionId()).setJobSubmit(submit)));
                    }
                    case JOB_ACCEPTED -> accepted = true;
                    case JOB_EVENT -> {
                        var event = envelope.getJobEvent();
                        var progress = event.getProgress();
                        if (event.hasProgress()) System.err.printf("progress %.0f/%.0f%n", progress.getCurrent(), progress.getTotal());
                        result.append(event.getResultChunk().getData()); // text, as the agent sent it
                    }
                    case JOB_RESULT -> {
                        System.out.println(result + envelope.getJobResult().getResultJson()); // one of the two is empty
                        System.exit(0);
                    }
                    case JOB_ERROR -> fail(envelope.getJobError().getCode(), envelope.getJobError().getMessage());
                    case SESSION_ERROR -> fail(envelope.getSessionError().getCode(), envelope.getSessionError().getMessage());
                    default -> {}
                }
            }
        }
    }

    static SessionRequest request(Envelope.Builder envelope) {
        return SessionRequest.newBuilder().setEnvelope(envelope.setArcp("1.1").setId(UUID.randomUUID().toString())).build();
    }

    static void fail(String code, String message) {
        System.err.println(code + ": " + message);
        System.exit(1);
    }
}
