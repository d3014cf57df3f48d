import static io.grpc.Status.Code.*;

import arcp.v1.AgentHostServiceGrpc;
import arcp.v1.AgentHostServiceOuterClass.*;
import arcp.v1.Event.JobEvent;
import io.grpc.*;
import io.grpc.stub.*;
import java.util.*;
import java.util.concurrent.*;

/** Hosts an agent, and keeps its jobs through dropped connections. */
class Host {
    /** One assignment, with the reports the runtime has not acked yet. */
    static class Job {
        AssignmentRef ref;
        long seq;
        final List<Report> unacked = new ArrayList<>();
        final CountDownLatch stop = new CountDownLatch(1);
    }

    /** Returns how the job ends. */
    interface Work {
        Complete.Builder of(Job job, String inputJson) throws Exception;
    }

    static final String id = UUID.randomUUID().toString(); // of this process: after a reconnect its jobs are its own again
    static final Map<String, Job> jobs = new HashMap<>(); // by lease token; guarded by the class, as all that follows
    static BlockingClientCall<ServeRequest, ServeResponse> registered; // null while there is none

    static void run(String name, String version, Work work) throws Exception {
        var headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + System.getenv("ARCPD_TOKEN"));
        var channel = Grpc.newChannelBuilder(System.getenv("ARCPD_SERVER"), InsecureChannelCredentials.create())
            .keepAliveTime(20, TimeUnit.SECONDS).intercept(MetadataUtils.newAttachHeadersInterceptor(headers)).build();
        var refused = EnumSet.of(UNAUTHENTICATED, PERMISSION_DENIED, INVALID_ARGUMENT);
        while (true) {
            try {
                serve(AgentHostServiceGrpc.newBlockingV2Stub(channel).serve(), HostedAgent.newBuilder().setName(name).setVersion(version), work);
            } catch (StatusException error) {
                System.err.println(error.getMessage());
                if (refused.contains(error.getStatus().getCode())) System.exit(1);
            }
            Thread.sleep(ThreadLocalRandom.current().nextInt(1000));
        }
    }

    /** One connection, from its register to its end. */
    static void serve(BlockingClientCall<ServeRequest, ServeResponse> stream, HostedAgent.Builder agent, Work work) throws Exception {
        var heart = Executors.newSingleThreadScheduledExecutor();
        try {
            var register = Register.newBuilder().setHostName("java-example").setHostInstanceId(id).setMaxInFlight(16).addAgents(agent);
            synchronized (Host.class) {
                for (var job : jobs.values()) register.addResume(HeldAssignment.newBuilder().setRef(job.ref));
            }
            stream.write(ServeRequest.newBuilder().setRegister(register).build());
            for (ServeResponse response; (response = stream.read()) != null; ) {
                synchronized (Host.class) {
                    receive(stream, response, heart, work);
                }
            }
        } finally {
            heart.shutdownNow();
            synchronized (Host.class) {
                registered = null;
            }
        }
    }

    static void receive(BlockingClientCall<ServeRequest, ServeResponse> stream, ServeResponse response, ScheduledExecutorService heart, Work work) throws Exception {
        switch (response.getMessageCase()) {
            case REGISTERED -> {
                registered = stream;
                var beat = ServeRequest.newBuilder().setHeartbeat(Heartbeat.getDefaultInstance()).build();
                var interval = response.getRegistered().getHeartbeatInterval().getSeconds();
                heart.scheduleAtFixedRate(() -> send(beat), interval, interval, TimeUnit.SECONDS);
                response.getRegistered().getDropList().forEach(Host::drop);
                for (var kept : response.getRegistered().getKeepList()) {
                    forget(kept.getRef(), kept.getAckedSeq());
                    var job = jobs.get(kept.getRef().getLeaseToken());
                    if (job != null) send(job, job.unacked);
                    if (job != null && kept.getCancelled()) job.stop.countDown();
                }
            }
            case ASSIGN -> {
                var job = new Job();
                job.ref = response.getAssign().getRef();
                jobs.put(job.ref.getLeaseToken(), job);
                stream.write(ServeRequest.newBuilder().setAccept(Accept.newBuilder().setRef(job.ref)).build());
                var input = response.getAssign().getInputJson();
                new Thread(() -> work(job, input, work)).start();
            }
            case ACK -> forget(response.getAck().getRef(), response.getAck().getSeq());
            case CANCEL -> Optional.ofNullable(jobs.get(response.getCancel().getRef().getLeaseToken())).ifPresent(job -> job.stop.countDown());
            case REVOKED -> drop(response.getRevoked().getRef());
            case REJECTED -> System.err.println(response.getRejected());
            default -> {}
        }
    }

    static void drop(AssignmentRef ref) {
        var job = jobs.remove(ref.getLeaseToken());
        if (job != null) job.stop.countDown();
    }

    /** Those reports are durable; after the last one the job is done with. */
    static void forget(AssignmentRef ref, long seq) {
        var job = jobs.get(ref.getLeaseToken());
        if (job == null) return;
        if (job.unacked.stream().anyMatch(report -> report.getSeq() <= seq && report.hasComplete())) drop(ref);
        job.unacked.removeIf(report -> report.getSeq() <= seq);
    }

    /** Where that fails, the reader learns it, and what is not acked is sent again. */
    static synchronized void send(ServeRequest request) {
        try {
            if (registered != null) registered.write(request);
        } catch (StatusException | InterruptedException | IllegalStateException gone) {
            registered = null;
        }
    }

    static void send(Job job, List<Report> reports) {
        if (!reports.isEmpty()) send(ServeRequest.newBuilder().setReports(Reports.newBuilder().setRef(job.ref).addAllReports(reports)).build());
    }

    /** Numbers a report and keeps it until it is acked: a broken connection loses none. */
    static synchronized void report(Job job, Report.Builder builder) {
        var report = builder.setSeq(++job.seq).build();
        job.unacked.add(report);
        send(job, List.of(report));
    }

    static void work(Job job, String inputJson, Work work) {
        Complete.Builder end;
        try {
            end = work.of(job, inputJson);
        } catch (Exception error) {
            end = Complete.newBuilder().setFailure(Failure.newBuilder().setCode("INVALID_REQUEST").setMessage("" + error));
        }
        report(job, Report.newBuilder().setComplete(end));
    }

    static void event(Job job, JobEvent.Builder event) {
        report(job, Report.newBuilder().setEvent(event));
    }

    /** The next part of a result of text. */
    static void part(Job job, String text) {
        report(job, Report.newBuilder().setResultPart(ResultPart.newBuilder().setText(text)));
    }
}
