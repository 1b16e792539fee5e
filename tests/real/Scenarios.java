// Everyday use of the official Java driver. Prints one line of JSON for each scenario, in the form
// that harness.py has; the caller compares a direct run with one through the proxy.
//
// Usage: java -cp "DRIVER/lib/*" Scenarios.java --uri URI --direct URI [--only NAMES] [--server NAME]
//
// Works with the drivers 5 and 6: what only one of them has is called by reflection.

import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetTime;
import java.time.ZonedDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.stream.IntStream;
import java.util.stream.StreamSupport;
import org.neo4j.driver.AccessMode;
import org.neo4j.driver.AuthTokens;
import org.neo4j.driver.Bookmark;
import org.neo4j.driver.Config;
import org.neo4j.driver.Driver;
import org.neo4j.driver.GraphDatabase;
import org.neo4j.driver.NotificationClassification;
import org.neo4j.driver.NotificationSeverity;
import org.neo4j.driver.QueryConfig;
import org.neo4j.driver.Record;
import org.neo4j.driver.Result;
import org.neo4j.driver.RoutingControl;
import org.neo4j.driver.Session;
import org.neo4j.driver.SessionConfig;
import org.neo4j.driver.SimpleQueryRunner;
import org.neo4j.driver.Transaction;
import org.neo4j.driver.TransactionConfig;
import org.neo4j.driver.Value;
import org.neo4j.driver.Values;
import org.neo4j.driver.async.AsyncSession;
import org.neo4j.driver.exceptions.Neo4jException;
import org.neo4j.driver.exceptions.TransientException;
import org.neo4j.driver.summary.ResultSummary;
import org.neo4j.driver.types.Node;
import org.neo4j.driver.types.Path;

public class Scenarios {
    static final Map<String, String> PASSWORDS = Map.of("neo4j", "secretpass", "alice", "alicepass");
    static final String BUSY =
        "UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n";
    static final long LIMIT_S = 90; // The slowest takes 4 s directly; what takes longer hangs.
    static final int HUNG_MAX = 3;
    static final SessionConfig PLAIN = SessionConfig.defaultConfig();
    static final SessionConfig SYSTEM = SessionConfig.forDatabase("system");
    static final String STILL_RUNNING = "still running after " + LIMIT_S + " s";

    interface Scenario {
        Object run(Context context) throws Exception;
    }

    record Entry(String server, Scenario scenario) {}

    static final Map<String, Entry> SCENARIOS = new LinkedHashMap<>();

    static void everywhere(String name, Scenario scenario) {
        SCENARIOS.put(name, new Entry("", scenario));
    }

    static void onNeo4j(String name, Scenario scenario) {
        SCENARIOS.put(name, new Entry("neo4j", scenario));
    }

    static {
        everywhere("connectivity", Scenarios::connectivity);
        everywhere("auto_commit", Scenarios::autoCommit);
        everywhere("managed_transactions", Scenarios::managedTransactions);
        everywhere("explicit_transactions", Scenarios::explicitTransactions);
        onNeo4j("abandoned", Scenarios::abandoned);
        everywhere("two_open_results", Scenarios::twoOpenResults);
        everywhere("rows_100k_by_hundreds", context -> rows(context, 100));
        everywhere("rows_100k_at_once", context -> rows(context, -1));
        everywhere("partly_read_results", Scenarios::partlyReadResults);
        onNeo4j("parameter_of_20_mebibytes", Scenarios::largeParameter);
        everywhere("result_of_20_mebibytes", Scenarios::largeResult);
        everywhere("large_transaction", Scenarios::largeTransaction);
        everywhere("bookmarks", Scenarios::bookmarks);
        onNeo4j("tx_timeout", Scenarios::timeouts);
        onNeo4j("transaction_metadata", Scenarios::metadata);
        everywhere("wrong_password", Scenarios::wrongPassword);
        onNeo4j("expired_password", Scenarios::expiredPassword);
        everywhere("errors_and_recovery", Scenarios::errorsAndRecovery);
        everywhere("refused_by_this_edition", Scenarios::refused);
        onNeo4j("two_users", Scenarios::twoUsers);
        onNeo4j("two_users_of_one_driver", Scenarios::twoUsersOfOneDriver);
        everywhere("sessions_200_at_once", Scenarios::manySessions);
        onNeo4j("connection_ended_by_the_server", Scenarios::connectionEnded);
        onNeo4j("transaction_ended_by_another", Scenarios::transactionEnded);
        everywhere("execute_query", Scenarios::executeQuery);
        everywhere("values_there_and_back", Scenarios::values);
        everywhere("zoned_times", Scenarios::zonedTimes);
        everywhere("nodes_relationships_paths", Scenarios::graph);
        everywhere("access_mode", Scenarios::accessMode);
        everywhere("deadlock_is_retried", Scenarios::deadlock);
        onNeo4j("notification_filters", Scenarios::notificationFilters);
        onNeo4j("summaries", Scenarios::summaries);
        everywhere("driver_closed_in_mid_stream", Scenarios::closedInMidStream);
        everywhere("asynchronous_sessions", Scenarios::asynchronous);
        everywhere("connections_checked_and_replaced", Scenarios::checkedConnections);
        SCENARIOS.put("vectors", new Entry("neo4j-2026", Scenarios::vectors));
    }

    static class Context implements AutoCloseable {
        final String uri;
        final String tag = UUID.randomUUID().toString();
        final Driver observer;
        final List<Driver> drivers = Collections.synchronizedList(new ArrayList<>());

        Context(Map<String, String> given) {
            uri = given.get("uri");
            observer = GraphDatabase.driver(
                given.get("direct"), AuthTokens.basic("neo4j", PASSWORDS.get("neo4j")));
            drivers.add(observer);
        }

        static Config.ConfigBuilder options() {
            return Config.builder().withMaxTransactionRetryTime(20, TimeUnit.SECONDS);
        }

        Driver driver() {
            return driver("neo4j", PASSWORDS.get("neo4j"), options());
        }

        Driver driver(String user) {
            return driver(user, PASSWORDS.get(user), options());
        }

        Driver driver(String user, String password, Config.ConfigBuilder options) {
            Driver made = GraphDatabase.driver(
                uri, AuthTokens.basic(user, password), options.build());
            drivers.add(made);
            return made;
        }

        List<Map<String, Object>> direct(String query, Object... parameters) {
            try (Session session = observer.session()) {
                return session.run(query, Values.parameters(parameters)).list(Record::asMap);
            }
        }

        void untilNoTransaction() throws Exception {
            until(() -> direct("SHOW TRANSACTIONS YIELD metaData WHERE metaData['tag'] = $tag"
                + " RETURN metaData", "tag", tag).isEmpty(), "the transaction to be gone");
        }

        Map<String, Object> findTransaction() throws Exception {
            List<Map<String, Object>> found = new ArrayList<>();
            until(() -> found.addAll(direct("SHOW TRANSACTIONS YIELD transactionId, connectionId,"
                + " metaData WHERE metaData['tag'] = $tag RETURN transactionId, connectionId",
                "tag", tag)), "the server to show the transaction");
            return found.get(0);
        }

        @Override
        public void close() {
            drivers.forEach(Driver::close);
        }
    }

    static class Failed extends RuntimeException {
        Failed(String what) {
            super(what);
        }
    }

    static void check(boolean truth, String what) {
        if (!truth) {
            throw new Failed(what);
        }
    }

    static void until(Callable<Boolean> condition, String what) throws Exception {
        for (int left = 400; left > 0; left--) {
            if (condition.call()) {
                return;
            }
            Thread.sleep(50);
        }
        check(false, "expected within 20 s: " + what);
    }

    static Object attempt(Callable<Object> work) throws Exception {
        try {
            return work.call();
        } catch (Failed failed) {
            throw failed;
        } catch (Exception error) {
            return errorOf(error);
        }
    }

    static Object errorOf(Throwable error) {
        Map<String, Object> told = new TreeMap<>();
        told.put("class", error.getClass().getSimpleName());
        told.put("error", error.getClass().getSimpleName());
        if (error instanceof Neo4jException known) {
            told.put("error", known.code());
            told.put("gql_status", known.gqlStatus());
        } else {
            error.printStackTrace();
        }
        return told;
    }

    static Object one(SimpleQueryRunner runner, String query, Object... parameters) {
        return runner.run(query, Values.parameters(parameters)).single().get(0).asObject();
    }

    static SessionConfig fetching(long size) {
        return SessionConfig.builder().withFetchSize(size).build();
    }

    static List<Object> together(List<Callable<Object>> works) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(works.size());
        try {
            List<Object> outcomes = new ArrayList<>();
            for (Future<Object> future : threads.invokeAll(works)) {
                outcomes.add(future.get());
            }
            return outcomes;
        } finally {
            threads.shutdownNow();
        }
    }

    static Object connectivity(Context context) {
        Driver driver = context.driver();
        driver.verifyConnectivity();
        try (Session session = driver.session()) {
            var server = session.run("RETURN 1").consume().server();
            return Arrays.asList(server.agent(), server.protocolVersion(),
                driver.supportsMultiDb(), driver.supportsSessionAuth());
        }
    }

    static Object autoCommit(Context context) {
        try (Session session = context.driver().session()) {
            Result made = session.run("CREATE (n:Made {id: 1}) RETURN n.id AS id");
            Object id = made.single().get("id").asLong();
            ResultSummary summary = made.consume();
            return Arrays.asList(id, summary.counters().nodesCreated(),
                summary.queryType().toString(), one(session, "MATCH (n:Made) RETURN count(n)"));
        }
    }

    static Object managedTransactions(Context context) throws Exception {
        try (Session session = context.driver().session()) {
            int[] attempts = {0};
            Object written = session.executeWrite(tx -> {
                tx.run("CREATE (:Managed)").consume();
                if (++attempts[0] == 1) {
                    throw new TransientException("Neo.TransientError.Test.Again", "again");
                }
                return one(tx, "MATCH (n:Managed) RETURN count(n)");
            });
            Object failed = attempt(() -> session.executeWrite(tx -> {
                tx.run("CREATE (:Managed)").consume();
                throw new IllegalStateException("the program's own error");
            }));
            Object read = session.executeRead(tx -> one(tx, "MATCH (n:Managed) RETURN count(n)"));
            Object refused = attempt(() -> session.executeRead(
                tx -> one(tx, "CREATE (:Managed) RETURN 1")));
            return Arrays.asList(attempts[0], written, failed, read, refused);
        }
    }

    static Object explicitTransactions(Context context) {
        try (Session session = context.driver().session()) {
            try (Transaction tx = session.beginTransaction()) {
                tx.run("CREATE (:Explicit {id: 1})");
                tx.commit();
            }
            try (Transaction tx = session.beginTransaction()) {
                tx.run("CREATE (:Explicit {id: 2})").consume();
                tx.rollback();
            }
            try (Transaction tx = session.beginTransaction()) {
                tx.run("CREATE (:Explicit {id: 3})").consume();
            }
            session.beginTransaction().commit();
            return one(session, "MATCH (n:Explicit) RETURN sum(n.id)");
        }
    }

    static TransactionConfig tagged(Context context) {
        return TransactionConfig.builder().withMetadata(Map.of("tag", context.tag, "n", 1)).build();
    }

    static Object abandoned(Context context) throws Exception {
        Driver driver = context.driver();
        driver.session().beginTransaction(tagged(context)).run("CREATE (:Abandoned)").consume();
        driver.close();
        context.untilNoTransaction();
        return context.direct("MATCH (n:Abandoned) RETURN count(n) AS n");
    }

    static Object twoOpenResults(Context context) {
        try (Session session = context.driver().session(fetching(100));
             Transaction tx = session.beginTransaction()) {
            Result up = tx.run("UNWIND range(1, 5000) AS x RETURN x");
            Result down = tx.run("UNWIND range(5000, 1, -1) AS x RETURN x");
            Set<Long> sums = new java.util.TreeSet<>();
            for (int step = 0; step < 2500; step++) {
                sums.add(up.next().get(0).asLong() + down.next().get(0).asLong());
            }
            Object third = one(tx, "RETURN 'third'");
            long rest = up.stream().mapToLong(row -> row.get(0).asLong()).sum();
            return Arrays.asList(sums, third, rest, down.list().size());
        }
    }

    static Object rows(Context context, long fetchSize) {
        String query = "UNWIND range(1, 100000) AS x RETURN x, toString(x) AS t, [x, x + 1] AS l";
        try (Session session = context.driver().session(fetching(fetchSize))) {
            long digest = 0;
            long count = 0;
            Result result = session.run(query);
            while (result.hasNext()) {
                digest = digest * 31 + result.next().values().toString().hashCode();
                count++;
            }
            return Arrays.asList(count, digest, one(session, "RETURN 1"));
        }
    }

    static Object partlyReadResults(Context context) {
        Driver driver = context.driver(
            "neo4j", PASSWORDS.get("neo4j"), Context.options().withMaxConnectionPoolSize(1));
        List<Object> seen = new ArrayList<>();
        try (Session session = driver.session(fetching(10))) {
            Result result = session.run("UNWIND range(1, 1000) AS x RETURN x");
            for (int step = 0; step < 15; step++) {
                seen.add(result.next().get(0).asLong());
            }
        }
        try (Session session = driver.session(fetching(10))) {
            Result result = session.run("UNWIND range(1, 1000) AS x RETURN x");
            result.next();
            result.consume();
            return Arrays.asList(seen, one(session, "RETURN 2"));
        }
    }

    static Object largeParameter(Context context) {
        try (Session session = context.driver().session()) {
            String text = "abcdefghij".repeat(2 * 1024 * 1024);
            return Arrays.asList(
                one(session, "RETURN size($text)", "text", text), one(session, "RETURN 1"));
        }
    }

    static Object largeResult(Context context) {
        try (Session session = context.driver().session()) {
            Object text = one(session, "RETURN reduce(a = $s, i IN range(1, 10) | a + a)",
                "s", "0123456789".repeat(2048));
            return Arrays.asList(text.toString().length(), text.hashCode(),
                one(session, "RETURN 1"));
        }
    }

    static Object largeTransaction(Context context) {
        List<Object> people = new ArrayList<>();
        IntStream.range(0, 1000).forEach(id -> people.add(Map.of("id", id, "name", "n" + id)));
        try (Session session = context.driver().session()) {
            session.executeWriteWithoutResult(tx -> {
                for (int round = 0; round < 20; round++) {
                    tx.run("UNWIND $people AS p CREATE (n:Person) SET n = p, n.round = $round",
                        Values.parameters("people", people, "round", round)).consume();
                }
            });
            return context.direct("MATCH (n:Person) RETURN count(n) AS n, sum(n.id) AS sum");
        }
    }

    static Object bookmarks(Context context) throws Exception {
        Driver writer = context.driver();
        Driver reader = context.driver();
        List<Object> seen = new ArrayList<>();
        Set<Bookmark> marks = Set.of();
        for (int round = 0; round < 20; round++) {
            try (Session session = writer.session(with(marks))) {
                session.executeWriteWithoutResult(tx -> tx.run("CREATE (:Marked)").consume());
                marks = session.lastBookmarks();
            }
            try (Session session = reader.session(with(marks))) {
                seen.add(session.executeRead(tx -> one(tx, "MATCH (n:Marked) RETURN count(n)")));
            }
        }
        try (Session session = reader.session(with(Set.of(Bookmark.from("not a bookmark"))))) {
            return Arrays.asList(seen, attempt(() -> one(session, "RETURN 1")));
        }
    }

    static SessionConfig with(Set<Bookmark> marks) {
        return SessionConfig.builder().withBookmarks(marks).build();
    }

    static Object timeouts(Context context) throws Exception {
        TransactionConfig second =
            TransactionConfig.builder().withTimeout(java.time.Duration.ofSeconds(1)).build();
        try (Session session = context.driver().session()) {
            Object plain = attempt(() -> session.run(BUSY, second).consume());
            Object managed = attempt(() -> session.executeWrite(tx -> one(tx, BUSY), second));
            return Arrays.asList(plain, managed, one(session, "RETURN 1"));
        }
    }

    static Object metadata(Context context) throws Exception {
        try (Session session = context.driver().session()) {
            Transaction tx = session.beginTransaction(tagged(context));
            tx.run("RETURN 1").consume();
            context.findTransaction();
            Object seen = context.direct("SHOW TRANSACTIONS YIELD metaData, username"
                + " WHERE metaData['tag'] = $tag RETURN username, metaData['n'] AS n",
                "tag", context.tag);
            tx.commit();
            String own = "CALL tx.getMetaData() YIELD metadata RETURN metadata['n']";
            return Arrays.asList(seen,
                session.run(own, tagged(context)).single().get(0).asObject(), one(session, own));
        }
    }

    static Object logIn(Context context, String user, String password) throws Exception {
        return attempt(() -> {
            try (Session session = context.driver(user, password, Context.options()).session()) {
                return one(session, "RETURN 'in'");
            }
        });
    }

    static Object wrongPassword(Context context) throws Exception {
        try (Session session = context.driver("alice").session()) {
            return Arrays.asList(one(session, "RETURN 1"), logIn(context, "alice", "wrongpass"),
                logIn(context, "alice", "wrongagain"), one(session, "RETURN 2"),
                logIn(context, "alice", PASSWORDS.get("alice")), one(session, "RETURN 3"),
                logIn(context, "nobody", "nobodypass"));
        }
    }

    static Object expiredPassword(Context context) throws Exception {
        String first = "firstpass";
        try (Session admin = context.observer.session(SYSTEM)) {
            admin.run("CREATE OR REPLACE USER bob SET PASSWORD '" + first + "'").consume();
        }
        List<Object> outcomes = new ArrayList<>();
        outcomes.add(logIn(context, "bob", first));
        outcomes.add(attempt(() -> {
            try (Session session = context.driver("bob", first, Context.options()).session(SYSTEM)) {
                session.run("ALTER CURRENT USER SET PASSWORD FROM $first TO $second",
                    Values.parameters("first", first, "second", "secondpass")).consume();
                return "changed";
            }
        }));
        outcomes.add(logIn(context, "bob", "secondpass"));
        outcomes.add(logIn(context, "bob", first));
        try (Session admin = context.observer.session(SYSTEM)) {
            admin.run("DROP USER bob").consume();
        }
        return outcomes;
    }

    static Object errorsAndRecovery(Context context) throws Exception {
        try (Session session = context.driver().session()) {
            List<Object> outcomes = new ArrayList<>();
            for (String query : List.of("RETRUN 1", "RETURN 1/0", "RETURN $missing",
                "CALL no.such()", "RETURN date('nonsense')", "MATCH (n) RETURN m",
                "UNWIND range(3000, 0, -1) AS x RETURN 1 / x")) {
                outcomes.add(attempt(() -> session.run(query).list().size()));
                outcomes.add(one(session, "RETURN 1"));
            }
            Transaction tx = session.beginTransaction();
            outcomes.add(attempt(() -> one(tx, "RETRUN 1")));
            outcomes.add(attempt(() -> one(tx, "RETURN 1")));
            outcomes.add(attempt(() -> {
                tx.commit();
                return "committed";
            }));
            tx.close();
            outcomes.add(one(session, "RETURN 2"));
            return outcomes;
        }
    }

    static Object refused(Context context) throws Exception {
        Driver driver = context.driver();
        List<Object> outcomes = new ArrayList<>();
        for (SessionConfig config : List.of(SessionConfig.forDatabase("nope"),
            SessionConfig.builder().withImpersonatedUser("alice").build(),
            SessionConfig.forDatabase("neo4j"))) {
            try (Session session = driver.session(config)) {
                outcomes.add(attempt(() -> one(session, "RETURN 1")));
                outcomes.add(attempt(() -> session.executeRead(tx -> one(tx, "RETURN 2"))));
            }
        }
        return outcomes;
    }

    static final String WHO = "SHOW CURRENT USER YIELD user RETURN user";

    static Object twoUsers(Context context) throws Exception {
        List<Callable<Object>> works = new ArrayList<>();
        for (String user : List.of("neo4j", "alice")) {
            Driver driver = context.driver(user);
            Callable<Object> ask = () -> {
                for (int round = 0; round < 25; round++) {
                    try (Session session = driver.session()) {
                        check(user.equals(one(session, WHO)), "expected to be " + user);
                    }
                }
                return user;
            };
            works.addAll(List.of(ask, ask, ask, ask));
        }
        return together(works);
    }

    static Object twoUsersOfOneDriver(Context context) throws Exception {
        Driver driver = context.driver();
        List<Object> outcomes = new ArrayList<>();
        for (String[] account : new String[][] {{"alice", "alicepass"}, {"neo4j", "secretpass"},
            {"alice", "alicepass"}, {"alice", "wrongpass"}, {"neo4j", "secretpass"}}) {
            var token = AuthTokens.basic(account[0], account[1]);
            try (Session session = driver.session(Session.class, PLAIN, token)) {
                outcomes.add(attempt(() -> one(session, WHO)));
            }
        }
        for (String password : List.of("alicepass", "wrongpass")) {
            outcomes.add(attempt(
                () -> driver.verifyAuthentication(AuthTokens.basic("alice", password))));
        }
        return outcomes;
    }

    static Object manySessions(Context context) throws Exception {
        Driver driver = context.driver(
            "neo4j", PASSWORDS.get("neo4j"), Context.options().withMaxConnectionPoolSize(200));
        List<Callable<Object>> works = new ArrayList<>();
        for (int number = 0; number < 200; number++) {
            int mine = number;
            works.add(() -> {
                try (Session session = driver.session()) {
                    session.executeWriteWithoutResult(
                        tx -> tx.run("CREATE (:Busy {number: " + mine + "})").consume());
                    return session.executeRead(tx -> one(tx, "RETURN $n", "n", mine));
                }
            });
        }
        long sum = together(works).stream().mapToLong(value -> (Long) value).sum();
        return Arrays.asList(sum, context.direct("MATCH (n:Busy) RETURN sum(n.number) AS sum"));
    }

    static Object connectionEnded(Context context) throws Exception {
        try (Session session = context.driver().session()) {
            int[] attempts = {0};
            Object count = session.executeWrite(tx -> {
                tx.run("CREATE (:Cut)").consume();
                if (++attempts[0] == 1) {
                    kill(context);
                }
                return one(tx, "MATCH (n:Cut) RETURN count(n)");
            }, tagged(context));
            return Arrays.asList(count, attempts[0],
                one(session, "MATCH (n:Cut) RETURN count(n)"));
        }
    }

    static void kill(Context context) {
        try {
            context.direct("CALL dbms.killConnection($id)",
                "id", context.findTransaction().get("connectionId"));
        } catch (Exception error) {
            throw new Failed("expected to find the transaction: " + error);
        }
    }

    static Object transactionEnded(Context context) throws Exception {
        try (Session session = context.driver().session()) {
            Transaction tx = session.beginTransaction(tagged(context));
            tx.run("CREATE (:Ended)").consume();
            context.direct("TERMINATE TRANSACTION $id",
                "id", context.findTransaction().get("transactionId"));
            Object ended = attempt(() -> one(tx, "RETURN 1"));
            attempt(() -> {
                tx.close();
                return null;
            });
            return Arrays.asList(ended, one(session, "MATCH (n:Ended) RETURN count(n)"));
        }
    }

    static Object executeQuery(Context context) throws Exception {
        Driver driver = context.driver();
        var made = driver.executableQuery("UNWIND $ids AS id CREATE (n:Query {id: id}) RETURN id")
            .withParameters(Map.of("ids", List.of(1, 2, 3)))
            .withConfig(QueryConfig.builder().withDatabase("neo4j").build()).execute();
        var reading = QueryConfig.builder().withRouting(RoutingControl.READ).build();
        var read = driver.executableQuery("MATCH (n:Query) RETURN n.id AS id ORDER BY id")
            .withConfig(reading).execute();
        return Arrays.asList(made.keys(), made.summary().counters().nodesCreated(),
            read.records().stream().map(row -> row.get(0).asLong()).toList(),
            attempt(() -> driver.executableQuery("RETRUN 1").execute().keys()),
            attempt(() -> driver.executableQuery("CREATE (n)").withConfig(reading).execute()
                .keys()));
    }

    static Object values(Context context) {
        List<Object> values = new ArrayList<>(Arrays.asList(null, true, 0L, -17L, 1L << 31,
            Long.MAX_VALUE, Long.MIN_VALUE, 1.5e300, Double.NaN, Double.NEGATIVE_INFINITY, "",
            "\u00fc\u4e2d\ud83d\ude00", "x".repeat(70000), new byte[300], List.of(1, List.of(2)),
            Map.of("a", Map.of("b", List.of(1))), LocalDate.of(2024, 2, 29),
            LocalTime.of(23, 59, 59, 999999999), OffsetTime.parse("10:11:12.5-05:00"),
            LocalDateTime.of(1969, 12, 31, 23, 59, 59, 1), Values.isoDuration(1, -2, 3, 4),
            Values.point(7203, 1.5, -2.5), Values.point(4979, 1, 2, 3), UUID.fromString(
                "00000000-0000-0000-0000-000000000007").toString()));
        values.add(new byte[70000]);
        try (Session session = context.driver().session()) {
            List<Object> back = new ArrayList<>();
            for (Object value : values) {
                Value came = session.run("RETURN $v", Collections.singletonMap("v", value))
                    .single().get(0);
                back.add(came.type().name() + " " + came.toString().hashCode());
            }
            return back;
        }
    }

    static Object zonedTimes(Context context) {
        List<Object> back = new ArrayList<>();
        try (Session session = context.driver().session()) {
            for (String text : List.of("2024-03-31T03:30:00+02:00[Europe/Berlin]",
                "2024-10-27T02:30:00+01:00[Europe/Berlin]", "1969-12-31T23:59:59.999999999-05:00",
                "0001-01-01T00:00:00Z", "2024-07-01T12:00:00+05:30[Asia/Kolkata]")) {
                Object there = ZonedDateTime.parse(text);
                back.add(one(session, "RETURN $t", "t", there).toString());
                back.add(one(session, "RETURN toString($t)", "t", there));
                back.add(one(session, "RETURN datetime($t)", "t", text).toString());
            }
        }
        return back;
    }

    static Object graph(Context context) {
        try (Session session = context.driver().session()) {
            Record made = session.run("CREATE p = (a:A:B {x: 1})-[r:KNOWS {since: date('2020-01-01')}]"
                + "->(b:C {y: [1, 2]}) RETURN a, r, b, p").single();
            Node start = made.get("a").asNode();
            Path path = made.get("p").asPath();
            return Arrays.asList(
                StreamSupport.stream(start.labels().spliterator(), false).sorted().toList(),
                start.asMap(), made.get("r").asRelationship().type(),
                made.get("r").asRelationship().asMap(), made.get("b").asNode().asMap(),
                path.length(), path.start().elementId().equals(start.elementId()),
                made.get("r").asRelationship().startNodeElementId().equals(start.elementId()));
        }
    }

    static Object accessMode(Context context) throws Exception {
        Driver driver = context.driver();
        String write = "CREATE (n:Access) RETURN 1";
        List<Object> outcomes = new ArrayList<>();
        for (AccessMode mode : AccessMode.values()) {
            var config = SessionConfig.builder().withDefaultAccessMode(mode).build();
            try (Session session = driver.session(config)) {
                outcomes.add(attempt(() -> one(session, write)));
                outcomes.add(attempt(() -> session.executeRead(tx -> one(tx, write))));
                outcomes.add(attempt(() -> session.executeWrite(tx -> one(tx, write))));
            }
        }
        outcomes.add(context.direct("MATCH (n:Access) RETURN count(n) AS n"));
        return outcomes;
    }

    static Object deadlock(Context context) throws Exception {
        context.direct("CREATE (:Lock {id: 0, n: 0}), (:Lock {id: 1, n: 0})");
        Driver driver = context.driver();
        CountDownLatch both = new CountDownLatch(2);
        int[] attempts = {0, 0};
        List<Callable<Object>> works = new ArrayList<>();
        for (int number = 0; number < 2; number++) {
            int mine = number;
            works.add(() -> {
                try (Session session = driver.session()) {
                    return session.executeWrite(tx -> {
                        attempts[mine]++;
                        increment(tx, mine);
                        both.countDown();
                        await(both);
                        increment(tx, 1 - mine);
                        return "done";
                    });
                }
            });
        }
        return Arrays.asList(together(works), attempts[0] + attempts[1] > 2,
            context.direct("MATCH (n:Lock) WITH n ORDER BY n.id RETURN n.n AS n"));
    }

    static void increment(SimpleQueryRunner tx, int id) {
        tx.run("MATCH (n:Lock {id: $id}) SET n.n = n.n + 1", Values.parameters("id", id)).consume();
    }

    static void await(CountDownLatch latch) {
        try {
            check(latch.await(20, TimeUnit.SECONDS), "expected both to hold a lock");
        } catch (InterruptedException error) {
            throw new Failed("interrupted");
        }
    }

    static Object notificationFilters(Context context) {
        List<Object> told = new ArrayList<>();
        told.add(notifications(context, Context.options()));
        told.add(notifications(context,
            Context.options().withMinimumNotificationSeverity(NotificationSeverity.OFF)));
        told.add(notifications(context, Context.options().withDisabledNotificationClassifications(
            Set.of(NotificationClassification.UNRECOGNIZED))));
        return told;
    }

    static Object notifications(Context context, Config.ConfigBuilder options) {
        Driver driver = context.driver("neo4j", PASSWORDS.get("neo4j"), options);
        try (Session session = driver.session()) {
            return session.run("MATCH (n:NoSuchLabel), (m) RETURN n.no").consume()
                .notifications().stream().map(note -> note.code()).toList();
        }
    }

    static Object summaries(Context context) {
        List<Object> told = new ArrayList<>();
        try (Session session = context.driver().session()) {
            for (String query : List.of("CREATE (n:Told {x: 1})-[:R]->() RETURN n",
                "EXPLAIN MATCH (n) RETURN n", "PROFILE MATCH (n) RETURN count(n)",
                "MATCH (n:Told) SET n.x = 2", "MATCH (n:Told) DETACH DELETE n")) {
                ResultSummary summary = session.run(query).consume();
                told.add(Arrays.asList(summary.queryType().toString(), summary.database().name(),
                    summary.hasPlan(), summary.hasProfile(), summary.counters().toString(),
                    summary.server().agent()));
            }
        }
        return told;
    }

    static Object closedInMidStream(Context context) throws Exception {
        Driver driver = context.driver();
        Result rows = driver.session(fetching(100)).run("UNWIND range(1, 1000000) AS x RETURN x");
        IntStream.range(0, 150).forEach(step -> rows.next());
        driver.close();
        Object after = attempt(() -> {
            IntStream.range(0, 1000).forEach(step -> rows.next());
            return "more";
        });
        try (Session session = context.driver().session()) {
            return Arrays.asList(after, one(session, "RETURN 1"));
        }
    }

    static Object asynchronous(Context context) throws Exception {
        AsyncSession session = context.driver().session(AsyncSession.class);
        Object sum = session.runAsync("UNWIND range(1, 5000) AS x RETURN x")
            .thenCompose(cursor -> cursor.listAsync(row -> row.get(0).asLong()))
            .thenApply(rows -> rows.stream().mapToLong(Long::longValue).sum())
            .toCompletableFuture().get(60, TimeUnit.SECONDS);
        Object written = session.executeWriteAsync(tx -> tx.runAsync("CREATE (:Async)")
            .thenCompose(cursor -> cursor.consumeAsync())
            .thenApply(summary -> summary.counters().nodesCreated()))
            .toCompletableFuture().get(60, TimeUnit.SECONDS);
        session.closeAsync().toCompletableFuture().get(60, TimeUnit.SECONDS);
        return Arrays.asList(sum, written);
    }

    static Object checkedConnections(Context context) {
        List<Object> outcomes = new ArrayList<>();
        for (Config.ConfigBuilder options : List.of(
            Context.options().withConnectionLivenessCheckTimeout(0, TimeUnit.MILLISECONDS),
            Context.options().withMaxConnectionLifetime(1, TimeUnit.MILLISECONDS))) {
            Driver driver = context.driver("neo4j", PASSWORDS.get("neo4j"), options);
            for (int number = 0; number < 10; number++) {
                try (Session session = driver.session()) {
                    outcomes.add(one(session, "RETURN $n", "n", number));
                }
            }
        }
        return outcomes;
    }

    static Object vectors(Context context) throws Exception {
        List<Object> outcomes = new ArrayList<>();
        try (Session session = context.driver().session()) {
            for (String text : List.of("vector([1, 2, 3], 3, INTEGER8)",
                "vector([1.5, -2], 2, FLOAT32)", "[vector([0.25], 1, FLOAT64)]")) {
                outcomes.add(attempt(() -> session.run("CYPHER 25 RETURN " + text).single().get(0)
                    .toString()));
            }
            outcomes.add(attempt(() -> {
                var made = Values.class.getMethod("vector", float[].class)
                    .invoke(null, (Object) new float[] {1f, 2.5f});
                return session.run("RETURN $v", Map.of("v", made)).single().get(0).toString();
            }));
            outcomes.add(attempt(() -> one(session, "RETURN $u", "u", new UUID(0, 7)).toString()));
        }
        return outcomes;
    }

    static <T> Future<T> inBackground(Callable<T> work) {
        FutureTask<T> task = new FutureTask<>(work);
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        thread.start();
        return task;
    }

    static Object runOne(Entry entry, Map<String, String> given) throws Exception {
        if (!given.getOrDefault("server", "neo4j-5.26").startsWith(entry.server())) {
            return Map.of("skipped", "this server has it not");
        }
        Context context = new Context(given);
        Future<Object> outcome = inBackground(() -> {
            context.direct("MATCH (n) DETACH DELETE n");
            return entry.scenario().run(context);
        });
        try {
            return outcome.get(LIMIT_S, TimeUnit.SECONDS);
        } catch (TimeoutException error) {
            return Map.of("failed", STILL_RUNNING);
        } catch (java.util.concurrent.ExecutionException error) {
            Throwable cause = error.getCause();
            return cause instanceof Failed ? Map.of("failed", cause.getMessage()) : errorOf(cause);
        } finally {
            // Closing takes the driver half a second, and the next scenario does not wait for it.
            inBackground(() -> {
                context.close();
                return null;
            });
        }
    }

    static void json(Object value, StringBuilder out) {
        if (value == null || value instanceof Number || value instanceof Boolean) {
            out.append(value);
        } else if (value instanceof Map<?, ?> map) {
            out.append('{');
            new TreeMap<>(map).forEach((key, inner) -> {
                json(key, out.append(out.charAt(out.length() - 1) == '{' ? "" : ", "));
                json(inner, out.append(": "));
            });
            out.append('}');
        } else if (value instanceof Iterable<?> list) {
            out.append('[');
            String before = "";
            for (Object inner : list) {
                json(inner, out.append(before));
                before = ", ";
            }
            out.append(']');
        } else {
            out.append('"');
            value.toString().chars().forEach(unit -> out.append(
                unit == '"' || unit == '\\' || unit < ' ' || unit > '~'
                    ? String.format("\\u%04x", unit) : String.valueOf((char) unit)));
            out.append('"');
        }
    }

    public static void main(String[] words) throws Exception {
        Logger.getLogger("").setLevel(Level.SEVERE);
        Map<String, String> given = new HashMap<>();
        for (int at = 0; at + 1 < words.length; at += 2) {
            given.put(words[at].substring(2), words[at + 1]);
        }
        List<String> only = List.of(given.getOrDefault("only", "").split(","));
        int hung = 0;
        for (var entry : SCENARIOS.entrySet()) {
            if (!only.contains("") && !only.contains(entry.getKey())) {
                continue;
            }
            long started = System.nanoTime();
            Object outcome = runOne(entry.getValue(), given);
            StringBuilder line = new StringBuilder("{\"name\": ");
            json(entry.getKey(), line);
            json(outcome, line.append(", \"outcome\": "));
            line.append(", \"seconds\": ").append((System.nanoTime() - started) / 1e9).append('}');
            System.out.println(line);
            hung += Map.of("failed", STILL_RUNNING).equals(outcome) ? 1 : 0;
            if (hung == HUNG_MAX) {
                break;
            }
        }
        System.out.flush();
        Runtime.getRuntime().halt(0);
    }
}
