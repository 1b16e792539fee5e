"""The Python driver 4.4: what it says in its own words, beside all that it shares with newer ones.

See harness.py. It speaks Bolt 4.4 and, where that is refused, older versions down to 3.
"""

import hashlib

from neo4j import Query

from harness import attempt, check, in_threads, main, one, scenario
from support import PASSWORDS
import scenarios  # noqa: registers its own


@scenario
def version(context):
    with context.driver() as driver:
        with driver.session() as session:
            server = session.run("RETURN 1").consume().server
            return [server.agent, str(server.protocol_version)]


@scenario
def plain_auto_commit(context):
    with context.driver() as driver, driver.session() as session:
        summary = session.run("CREATE (n:Made {id: 1}) RETURN n").consume()
        return [summary.counters.nodes_created, one(session, "MATCH (n:Made) RETURN count(n)")]


@scenario
def transactions(context):
    with context.driver() as driver, driver.session() as session:
        def write(tx):
            tx.run("CREATE (:Old {id: 1})").consume()

        session.write_transaction(write)
        tx = session.begin_transaction()
        tx.run("CREATE (:Old {id: 2})")
        tx.rollback()
        with session.begin_transaction() as tx:
            tx.run("CREATE (:Old {id: 3})")
            tx.commit()
        marks = session.last_bookmark()
        with driver.session(bookmarks=[marks]) as reader:
            ids = reader.read_transaction(
                lambda tx: one(tx, "MATCH (n:Old) RETURN sum(n.id)"))
        refused = attempt(session.read_transaction, write)
        return [ids, bool(marks), refused]


@scenario
def abandoned(context):
    driver = context.driver()
    tx = driver.session().begin_transaction(metadata={"tag": context.tag})
    tx.run("CREATE (:Abandoned)").consume()
    driver.close()
    context.until_no_transaction(context.tag)
    return context.direct("MATCH (n:Abandoned) RETURN count(n) AS n")


@scenario
def many_rows(context):
    digest = hashlib.sha256()
    with context.driver() as driver, driver.session(fetch_size=100) as session:
        for record in session.run("UNWIND range(1, 20000) AS x RETURN x, toString(x) AS text"):
            digest.update(repr(record.values()).encode())
        half = session.run("UNWIND range(1, 20000) AS x RETURN x")
        next(iter(half))
        return [digest.hexdigest(), one(session, "RETURN 1")]


@scenario
def plain_errors(context):
    with context.driver() as driver, driver.session() as session:
        outcomes = [attempt(one, session, "RETRUN 1"), one(session, "RETURN 1"),
                    attempt(one, session, "RETURN 1/0"), one(session, "RETURN 2")]
        busy = "UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i)"
        outcomes.append(attempt(one, session, Query(busy, timeout=1)))
        outcomes.append(one(session, "RETURN 3"))
    with context.driver("alice", "wrongpass") as driver:
        outcomes.append(attempt(driver.verify_connectivity))
    return outcomes


@scenario
def plain_values(context):
    query = ("CREATE p = (a:A {x: 1})-[r:R]->(b) RETURN a, type(r), length(p), $v AS v,"
             " datetime('2024-03-31T02:30:00[Europe/Berlin]') AS zone, point({x: 1, y: 2}) AS q")
    with context.driver() as driver, driver.session() as session:
        given = [None, True, -(2**63), 1.5, "\u00fc" * 70000, bytearray(300), {"k": [1, [2]]}]
        record = session.run(query, v=given).single()
        return [dict(record[0]), repr(record.values()[1:])]


@scenario
def plain_two_users(context):
    def ask(driver, user):
        for _ in range(15):
            with driver.session() as session:
                seen = one(session, "SHOW CURRENT USER YIELD user RETURN user")
                check(seen == user, f"expected to be {user}, was {seen}")
        return user

    check(len(PASSWORDS) == 2, "expected two users")
    with context.driver() as first, context.driver("alice") as second:
        return in_threads([lambda: ask(first, "neo4j"), lambda: ask(second, "alice")] * 4)


if __name__ == "__main__":
    main()
