"""Everyday use of the official Python driver, and what it promises. See harness.py."""

import hashlib
import os
import subprocess
import sys
import time

import neo4j

from harness import attempt, check, main, needs, one, scenario
from support import PASSWORDS
import scenarios_more  # noqa: registers its own
import scenarios_async  # noqa: registers its own
import scenarios_users  # noqa: registers its own
import scenarios_values  # noqa: registers its own

MEBIBYTE = 1024 * 1024
# A query that keeps the server busy for minutes unless somebody ends it.
BUSY = "UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n"

@scenario
def auto_commit(context):
    with context.driver() as driver, driver.session() as session:
        rows = session.run("UNWIND range(1, 3) AS x RETURN x, x * $f AS y", f=2).data()
        created = session.run("CREATE (n:Made {id: 1}) RETURN n.id AS id")
        summary = [created.single()["id"], created.consume().counters.nodes_created]
        return [rows, summary, one(session, "MATCH (n:Made) RETURN count(n)")]


@scenario
def managed_transactions(context):
    attempts = {"write": 0, "read": 0}

    def write(tx):
        attempts["write"] += 1
        tx.run("CREATE (:Managed {id: 1})").consume()
        if attempts["write"] == 1:
            raise neo4j.exceptions.TransientError("asked to retry")
        return tx.run("MATCH (n:Managed) RETURN count(n) AS n").single()["n"]

    def read(tx):
        attempts["read"] += 1
        return tx.run("MATCH (n:Managed) RETURN count(n) AS n").single()["n"]

    def fail(tx):
        tx.run("CREATE (:Managed {id: 2})").consume()
        raise KeyError("the program's own error")

    with context.driver() as driver, driver.session() as session:
        return [session.execute_write(write), session.execute_read(read),
                attempt(session.execute_write, fail), session.execute_read(read), attempts]


@scenario
def explicit_transactions(context):
    with context.driver() as driver, driver.session() as session:
        with session.begin_transaction() as tx:
            tx.run("CREATE (:Explicit {id: 1})")
            tx.commit()
        with session.begin_transaction() as tx:
            tx.run("CREATE (:Explicit {id: 2})")
            tx.rollback()
        with session.begin_transaction() as tx:
            tx.run("CREATE (:Explicit {id: 3})")
        tx = session.begin_transaction()
        tx.commit()
        tx = session.begin_transaction()
        tx.rollback()
        return one(session, "MATCH (n:Explicit) RETURN sum(n.id)")


@scenario
@needs(server="neo4j")
def abandoned_with_its_driver(context):
    driver = context.driver()
    tx = driver.session().begin_transaction(metadata={"tag": context.tag})
    tx.run("CREATE (:Abandoned)").consume()
    driver.close()
    context.until_no_transaction(context.tag)
    return context.direct("MATCH (n:Abandoned) RETURN count(n) AS n")


@scenario
@needs(server="neo4j")
def abandoned_with_its_session(context):
    with context.driver() as driver:
        session = driver.session()
        tx = session.begin_transaction(metadata={"tag": context.tag})
        tx.run("UNWIND range(1, 5000) AS i CREATE (n:Abandoned) RETURN i")
        session.close()
        context.until_no_transaction(context.tag)
        with driver.session() as session:
            return one(session, "MATCH (n:Abandoned) RETURN count(n)")


CHILD = """
import sys, time, neo4j
driver = neo4j.GraphDatabase.driver(sys.argv[1], auth=("neo4j", sys.argv[2]))
tx = driver.session().begin_transaction(metadata={"tag": sys.argv[3]})
tx.run("CREATE (:Abandoned)").consume()
print("open", flush=True)
time.sleep(60)
"""


@scenario
@needs(server="neo4j")
def abandoned_by_a_killed_client(context):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, context.uri, PASSWORDS["neo4j"], context.tag],
        stdout=subprocess.PIPE, text=True, cwd=os.path.dirname(os.path.abspath(__file__)))
    opened = child.stdout.readline().strip()
    child.kill()
    child.wait()
    child.stdout.close()
    context.until_no_transaction(context.tag)
    return [opened, context.direct("MATCH (n:Abandoned) RETURN count(n) AS n")]


@scenario
def two_open_results(context):
    with context.driver() as driver, driver.session(fetch_size=100) as session:
        with session.begin_transaction() as tx:
            up = iter(tx.run("UNWIND range(1, 5000) AS x RETURN x"))
            down = iter(tx.run("UNWIND range(5000, 1, -1) AS x RETURN x"))
            pairs = [next(up)["x"] + next(down)["x"] for _ in range(2500)]
            third = tx.run("RETURN 'third' AS x").single()["x"]
            rest = [sum(record["x"] for record in result) for result in (down, up)]
            return [set(pairs) == {5001}, third, rest]


@scenario
def many_statements_in_one_transaction(context):
    with context.driver() as driver, driver.session() as session:
        with session.begin_transaction() as tx:
            for number in range(200):
                tx.run("CREATE (:Step {number: $number})", number=number)
            tx.commit()
        return one(session, "MATCH (n:Step) RETURN sum(n.number)")


def rows_100k(context, fetch_size):
    query = "UNWIND range(1, 100000) AS x RETURN x, toString(x) AS text, [x, x + 1] AS list"
    digest, count = hashlib.sha256(), 0
    with context.driver() as driver, driver.session(fetch_size=fetch_size) as session:
        for record in session.run(query):
            digest.update(repr(record.values()).encode())
            count += 1
        return [count, digest.hexdigest(), one(session, "RETURN 1")]


@scenario
def rows_100k_by_hundreds(context):
    return rows_100k(context, 100)


@scenario
def rows_100k_at_once(context):
    return rows_100k(context, -1)


@scenario
@needs(driver=5)
def partly_read_results(context):
    with context.driver(max_connection_pool_size=1) as driver:
        with driver.session(fetch_size=10) as session:
            result = session.run("UNWIND range(1, 1000) AS x RETURN x")
            seen = [next(result)["x"] for _ in range(15)]
        with driver.session(fetch_size=10) as session:
            result = session.run("UNWIND range(1, 1000) AS x RETURN x")
            next(result)
            kind = result.consume().query_type
            first = session.run("UNWIND range(1, 30) AS x RETURN x")
            second = one(session, "RETURN 2")
            return [seen, kind, second, len(first.fetch(100))]


@scenario
@needs(server="neo4j")
def parameter_of_20_mebibytes(context):
    text = "abcdefghij" * (2 * MEBIBYTE)
    with context.driver() as driver, driver.session() as session:
        length = one(session, "RETURN size($text)", text=text)
        ends = session.run("RETURN left($t, 3) + right($t, 3) AS e", t=text).data()
        return [length, ends, one(session, "RETURN 1")]


@scenario
def result_of_20_mebibytes(context):
    with context.driver() as driver, driver.session() as session:
        twenty_kibibytes = "0123456789" * 2048
        text = one(session, "RETURN reduce(a = $s, i IN range(1, 10) | a + a)", s=twenty_kibibytes)
        check(len(text) == 20 * MEBIBYTE, f"expected 20 MiB, came {len(text)} bytes")
        return [hashlib.sha256(text.encode()).hexdigest(), one(session, "RETURN 1")]


@scenario
@needs(driver=5)
def bookmarks(context):
    def write(tx, number):
        tx.run("CREATE (:Marked {number: $number})", number=number)

    def count(tx):
        return tx.run("MATCH (n:Marked) RETURN count(n) AS n").single()["n"]

    seen = []
    with context.driver() as writer, context.driver() as reader:
        marks = None
        for number in range(20):
            with writer.session(bookmarks=marks) as session:
                session.execute_write(write, number)
                marks = session.last_bookmarks()
            with reader.session(bookmarks=marks) as session:
                seen.append(session.execute_read(count))
        with writer.session() as session:
            session.run("CREATE (:Marked)").consume()
            plain = len(session.last_bookmarks().raw_values)
        wrong = neo4j.Bookmarks.from_raw_values(["not a bookmark"])
        with reader.session(bookmarks=wrong) as session:
            refused = attempt(lambda: one(session, "RETURN 1"))
        with reader.session() as session:
            return [seen, plain, refused, one(session, "MATCH (n:Marked) RETURN count(n)")]


@scenario
@needs(server="neo4j")
def tx_timeout(context):
    with context.driver() as driver, driver.session() as session:
        started = time.monotonic()
        explicit = session.begin_transaction(timeout=1)
        busy = attempt(lambda: explicit.run(BUSY).consume())
        attempt(explicit.close)
        plain = attempt(lambda: session.run(neo4j.Query(BUSY, timeout=1)).consume())
        check(time.monotonic() - started < 30, "expected both ended by their limit of 1 s")
        return [busy, plain, one(session, "RETURN 1")]


@scenario
@needs(server="neo4j")
def transaction_metadata(context):
    query = ("SHOW TRANSACTIONS YIELD metaData, username, status WHERE metaData['tag'] = $tag"
             " RETURN metaData['n'] AS n, username ORDER BY n")
    with context.driver() as driver, driver.session() as session:
        with session.begin_transaction(metadata={"tag": context.tag, "n": 1}) as tx:
            tx.run("RETURN 1").consume()
            context.find_transaction()
            seen = context.direct(query, tag=context.tag)
            own = tx.run("CALL tx.getMetaData() YIELD metadata RETURN metadata").single()[0]
        text = "CALL tx.getMetaData() YIELD metadata RETURN metadata['n'] AS n"
        plain = session.run(neo4j.Query(text, metadata={"n": 2})).data()
        after = session.run("CALL tx.getMetaData() YIELD metadata RETURN metadata").data()
        gone = context.direct(query, tag=context.tag)
        return [seen, own["tag"] == context.tag, plain, after, gone]


@scenario
def errors_and_recovery(context):
    with context.driver() as driver, driver.session() as session:
        outcomes = []
        for query in ("RETRUN 1", "RETURN 1/0", "RETURN $missing", "CALL no.such()",
                      "RETURN date('nonsense')", "MATCH (n) RETURN m"):
            outcomes.append(attempt(lambda: one(session, query)))
            outcomes.append(one(session, "RETURN 1"))
        late = "UNWIND range(3000, 0, -1) AS x RETURN 1 / x"
        outcomes.append(attempt(lambda: session.run(late).data()))
        outcomes.append(one(session, "RETURN 1"))
        return outcomes


@scenario
def error_inside_a_transaction(context):
    with context.driver() as driver, driver.session() as session:
        tx = session.begin_transaction()
        tx.run("CREATE (:Doomed)").consume()
        outcomes = [attempt(lambda: tx.run("RETRUN 1").consume()),
                    attempt(lambda: tx.run("RETURN 1").consume()), attempt(tx.commit)]
        attempt(tx.close)
        read_only = attempt(session.execute_read, lambda tx: tx.run("CREATE (:Doomed)").consume())
        return [outcomes, read_only, one(session, "MATCH (n:Doomed) RETURN count(n)")]


@scenario
def constraint_violation(context):
    with context.driver() as driver, driver.session() as session:
        session.run("CREATE CONSTRAINT once IF NOT EXISTS FOR (n:Once) REQUIRE n.id IS UNIQUE")
        make = "CREATE (n:Once {id: 1}) RETURN n.id AS id"
        try:
            first = session.execute_write(lambda tx: tx.run(make).single()["id"])
            second = attempt(session.execute_write, lambda tx: tx.run(make).single()["id"])
            return [first, second, one(session, "MATCH (n:Once) RETURN count(n)")]
        finally:
            session.run("DROP CONSTRAINT once").consume()


@scenario
@needs(server="neo4j")
def transaction_ended_by_another(context):
    with context.driver() as driver, driver.session() as session:
        tx = session.begin_transaction(metadata={"tag": context.tag})
        tx.run("CREATE (:Ended)").consume()
        context.direct("TERMINATE TRANSACTION $transactionId", **context.find_transaction())
        outcomes = [attempt(lambda: tx.run("RETURN 1").consume())]
        attempt(tx.close)
        return [outcomes, one(session, "MATCH (n:Ended) RETURN count(n)")]


@scenario
@needs(server="neo4j")
def connection_ended_by_the_server(context):
    """A managed transaction lives on when the server cuts its connection in the middle."""
    attempts = 0

    def work(tx):
        nonlocal attempts
        attempts += 1
        tx.run("CREATE (:Cut)").consume()
        if attempts == 1:
            context.direct("CALL dbms.killConnection($connectionId)", **context.find_transaction())
        return tx.run("MATCH (n:Cut) RETURN count(n) AS n").single()["n"]

    with context.driver() as driver, driver.session() as session:
        marked = neo4j.unit_of_work(metadata={"tag": context.tag})(work)
        count = session.execute_write(marked)
        return [count, attempts, one(session, "MATCH (n:Cut) RETURN count(n)")]


@scenario
@needs(driver=5)
def connectivity(context):
    with context.driver() as driver:
        driver.verify_connectivity()
        info = driver.get_server_info()
        return [info.agent, info.protocol_version, driver.supports_multi_db(),
                driver.supports_session_auth()]


@scenario
@needs(driver=5)
def execute_query(context):
    with context.driver() as driver:
        made = driver.execute_query("UNWIND $ids AS id CREATE (n:Query {id: id}) RETURN n.id AS id",
                                    ids=[1, 2, 3], database_="neo4j")
        read = driver.execute_query("MATCH (n:Query) RETURN n.id AS id ORDER BY id",
                                    routing_=neo4j.RoutingControl.READ)
        single = driver.execute_query("RETURN 7 AS x", result_transformer_=neo4j.Result.single)
        other = driver.execute_query("SHOW CURRENT USER YIELD user RETURN user",
                                     auth_=("alice", PASSWORDS["alice"]))
        return [made.keys, made.summary.counters.nodes_created, [r.data() for r in read.records],
                single["x"], other.records[0]["user"],
                attempt(driver.execute_query, "RETRUN 1"),
                attempt(driver.execute_query, "CREATE (n)", routing_=neo4j.RoutingControl.READ)]


@scenario
@needs(driver=5)
def connections_checked_and_replaced(context):
    """RESET before each use, then a new connection for each use."""
    values = []
    for options in ({"liveness_check_timeout": 0}, {"max_connection_lifetime": 0}):
        with context.driver(**options) as driver:
            for number in range(10):
                with driver.session() as session:
                    values.append(one(session, "RETURN $n", n=number))
    return values


@scenario
def idle_transaction(context):
    """A transaction that thinks for 3 s keeps what it wrote, while others work."""
    with context.driver() as driver, driver.session() as session, driver.session() as other:
        with session.begin_transaction() as tx:
            tx.run("CREATE (:Idle)").consume()
            time.sleep(3)
            meanwhile = [one(other, "MATCH (n:Idle) RETURN count(n)") for _ in range(10)]
            own = tx.run("MATCH (n:Idle) RETURN count(n) AS n").single()["n"]
            tx.commit()
        return [meanwhile, own, one(other, "MATCH (n:Idle) RETURN count(n)")]


if __name__ == "__main__":
    main()
