import static arcp.v1.EnvelopeOuterClass.Envelope.PayloadCase.*;

import arcp.v1.EnvelopeOuterClass.*;
import arcp.v1.RuntimeServiceGrpc;
import arcp.v1.RuntimeServiceOuterClass.*;
import io.grpc.*;
import java.util.*;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** A job followed through dropped connections: its session outlives them. */
class Session {
    static final Set<Envelope.PayloadCase> LAST = EnumSet.of(JOB_RESULT, JOB_ERROR, SESSION_ERROR);

    final SessionHello.Builder hello = SessionHello.newBuilder().setClientName("java-example").setClientVersion("1")
        .setAuthScheme("bearer").addAllFeatures(List.of("progress", "result_chunk"));
    JobSubmit.Builder submit;
    boolean accepted;

    /** Tells what the runtime says of the job, each once and in order, to its end. */
    static void follow(String server, String token, JobSubmit.Builder submit, Consumer<Envelope> told) throws Exception {
        var session = new Session();
        session.hello.setAuthToken(token);
        session.submit = submit.setIdempotencyKey(UUID.randomUUID().toString()); // sent twice, it is one job
        var channel = Grpc.newChannelBuilder(server, InsecureChannelCredentials.create()).keepAliveTime(20, TimeUnit.SECONDS).build();
        while (!session.connect(RuntimeServiceGrpc.newBlockingV2Stub(channel), told)) Thread.sleep(500);
        channel.shutdownNow();
    }

    /** One connection; true at the end of the job, false at its own. */
    boolean connect(RuntimeServiceGrpc.RuntimeServiceBlockingV2Stub stub, Consumer<Envelope> told) throws Exception {
        try {
            var stream = stub.session();
            stream.write(request(Envelope.newBuilder().setSessionHello(hello)));
            for (SessionResponse response; (response = stream.read()) != null; ) {
                for (var envelope : response.getEnvelopesList()) {
                    if (envelope.getEventSeq() > 0) hello.getResumeBuilder().setLastEventSeq(envelope.getEventSeq());
                    var kind = envelope.getPayloadCase();
                    if (kind == SESSION_WELCOME) {
                        hello.getResumeBuilder().setSessionId(envelope.getSessionId()).setResumeToken(envelope.getSessionWelcome().getResumeToken());
                        if (!accepted) stream.write(request(Envelope.newBuilder().setSessionId(envelope.getSessionId()).setJobSubmit(submit)));
                    }
                    if (kind == JOB_ACCEPTED) accepted = true;
                    told.accept(envelope);
                    if (LAST.contains(kind)) return true;
                }
            }
        } catch (StatusException error) {
            System.err.println("dialing again: " + error.getMessage());
        }
        return false;
    }

    static SessionRequest request(Envelope.Builder envelope) {
        return SessionRequest.newBuilder().setEnvelope(envelope.setArcp("1.1").setId(UUID.randomUUID().toString())).build();
    }
}
