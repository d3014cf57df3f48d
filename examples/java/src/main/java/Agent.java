import arcp.v1.AgentHostServiceOuterClass.*;
import arcp.v1.Event.*;
import com.google.gson.Gson;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.TimeUnit;

/** word-count, the work alone; Host.java is what stands between it and the runtime. */
class Agent {
    record Input(String text, long step_ms) {}

    public static void main(String[] args) throws Exception {
        Host.run(System.getenv().getOrDefault("ARCP_AGENT", "word-count"), "1.0.0", Agent::wordCount);
    }

    static Complete.Builder wordCount(Host.Job job, String inputJson) throws Exception {
        var input = new Gson().fromJson(inputJson, Input.class);
        List<String> lines = input.text.lines().toList();
        int step = 1 + lines.size() / 20, words = 0;
        for (int from = 0; from < lines.size(); from += step) {
            int to = Math.min(from + step, lines.size());
            words += new StringTokenizer(String.join("\n", lines.subList(from, to))).countTokens();
            Host.event(job, JobEvent.newBuilder().setProgress(Progress.newBuilder().setCurrent(to).setTotal(lines.size())));
            if (job.stop.await(input.step_ms, TimeUnit.MILLISECONDS)) return Complete.newBuilder().setCancelled(Cancelled.getDefaultInstance());
        }
        int bytes = input.text.getBytes(StandardCharsets.UTF_8).length;
        Host.event(job, JobEvent.newBuilder().setToolCall(ToolCall.newBuilder().setTool("measure").setCallId("1").setArgsJson("{}")));
        Host.event(job, JobEvent.newBuilder().setToolResult(ToolResult.newBuilder().setCallId("1").setResultJson("" + bytes)));
        Host.part(job, "{\"lines\": " + lines.size());
        Host.part(job, ", \"words\": " + words);
        Host.part(job, ", \"bytes\": " + bytes + "}");
        return Complete.newBuilder().setParts(ResultSummary.getDefaultInstance());
    }
}
