import arcp.v1.EnvelopeOuterClass.*;
import com.google.gson.Gson;
import java.nio.file.*;
import java.util.*;

/** Client AGENT FILE [STEP_MS]: submits a text, follows its job, prints the result. */
class Client {
    static final StringBuilder result = new StringBuilder();

    public static void main(String[] args) throws Exception {
        var input = Map.of("text", Files.readString(Path.of(args[1])), "step_ms", args.length > 2 ? Long.parseLong(args[2]) : 0);
        var submit = JobSubmit.newBuilder().setAgent(args[0]).setInputJson(new Gson().toJson(input));
        Session.follow(System.getenv("ARCPD_SERVER"), System.getenv("ARCPD_TOKEN"), submit, Client::told);
    }

    static void told(Envelope envelope) {
        switch (envelope.getPayloadCase()) {
            case JOB_EVENT -> {
                var event = envelope.getJobEvent();
                var progress = event.getProgress();
                if (event.hasProgress()) System.err.printf("progress %.0f/%.0f%n", progress.getCurrent(), progress.getTotal());
                result.append(event.getResultChunk().getData()); // text, as the agent sent it
            }
            case JOB_RESULT -> System.out.println(result + envelope.getJobResult().getResultJson()); // one of the two is empty
            case JOB_ERROR -> fail(envelope.getJobError().getCode(), envelope.getJobError().getMessage());
            case SESSION_ERROR -> fail(envelope.getSessionError().getCode(), envelope.getSessionError().getMessage());
            default -> {}
        }
    }

    static void fail(String code, String message) {
        System.err.println(code + ": " + message);
        System.exit(1);
    }
}
