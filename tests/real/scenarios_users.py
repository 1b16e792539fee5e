"""Several users and several clients at once, with the official Python driver. See harness.py."""

import threading
import time

from harness import attempt, check, in_threads, needs, one, scenario
from support import PASSWORDS

# Longer than any answer takes on a busy machine, far shorter than the pool's 60 s of waiting.
AT_ONCE_S = 10


@scenario
@needs(driver=5)
def wrong_password(context):
    def log_in(password):
        with context.driver("alice", password) as driver:
            driver.verify_connectivity()
            return "in"

    with context.driver("alice") as driver, driver.session() as session:
        before = one(session, "RETURN 1")
        refused = [attempt(log_in, "wrongpass"), attempt(log_in, "wrongagain")]
        still = one(session, "RETURN 2")
        return [before, refused, still, attempt(log_in, PASSWORDS["alice"]),
                attempt(lambda: one(session, "RETURN 3")), unknown_user(context)]


def unknown_user(context):
    with context.driver("nobody", "nobodypass") as driver:
        return attempt(driver.verify_connectivity)


@scenario
def refused_by_this_edition(context):
    def ask(query="RETURN 1", **options):
        with driver.session(**options) as session:
            return attempt(lambda: one(session, query))

    with context.driver() as driver:
        return [ask(database="nope"), ask(impersonated_user="alice"),
                ask("CREATE DATABASE other", database="system"), ask(database="neo4j")]


@scenario
@needs(server="neo4j")
def system_database(context):
    with context.driver() as driver, driver.session(database="system") as session:
        return [session.run("SHOW USERS YIELD user ORDER BY user").data(),
                session.run("SHOW DATABASES YIELD name, address ORDER BY name").data(),
                attempt(lambda: one(session, "CREATE (n) RETURN 1"))]


def user_of(session):
    return one(session, "SHOW CURRENT USER YIELD user RETURN user")


@scenario
@needs(server="neo4j")
def two_users(context):
    def ask(driver, user):
        for _ in range(25):
            with driver.session() as session:
                seen = user_of(session)
                check(seen == user, f"expected to be {user}, was {seen}")
        return user

    with context.driver() as first, context.driver("alice") as second:
        return in_threads([lambda: ask(first, "neo4j"), lambda: ask(second, "alice")] * 4)


@scenario
def idle_connections_of_another_user(context):
    """One user leaves four idle connections behind; the other must not wait for them."""
    with context.driver() as first, context.driver("alice") as second:
        transactions = [first.session().begin_transaction() for _ in range(4)]
        values = [tx.run("RETURN 1 AS x").single()["x"] for tx in transactions]
        for tx in transactions:
            tx.commit()
        started = time.monotonic()
        with second.session() as session:
            users = [user_of(session)]
        with first.session() as session:
            users.append(user_of(session))
        waited = time.monotonic() - started
        check(waited < AT_ONCE_S, f"expected no waiting, waited {waited:.1f} s")
        return [values, users]


@scenario
@needs(driver=5, server="neo4j")
def two_users_of_one_driver(context):
    with context.driver() as driver:
        users = []
        for user in ("alice", "neo4j", "alice", None, "alice"):
            auth = (user, PASSWORDS[user]) if user else None
            with driver.session(auth=auth) as session:
                users.append(attempt(user_of, session))  # Before Bolt 5.1 the driver refuses.
        with driver.session(auth=("alice", "wrongpass")) as session:
            refused = attempt(user_of, session)
        with driver.session() as session:
            users.append(user_of(session))
        verified = [attempt(driver.verify_authentication, ("alice", password))
                    for password in (PASSWORDS["alice"], "wrongpass")]
        return [users, refused, verified]


@scenario
def sessions_200_at_once(context):
    with context.driver(max_connection_pool_size=200) as driver:
        def work(number):
            with driver.session() as session:
                session.execute_write(
                    lambda tx: tx.run("CREATE (:Busy {number: $n})", n=number).consume())
                return session.execute_read(lambda tx: one(tx, "RETURN $n", n=number))

        outcomes = in_threads([lambda number=number: work(number) for number in range(200)])
        wrong = [outcome for number, outcome in enumerate(outcomes) if outcome != number]
        return [wrong, context.direct("MATCH (n:Busy) RETURN sum(n.number) AS sum")]


@scenario
def writers_of_one_node(context):
    context.direct("CREATE (:Counter {value: 0})")

    def work(driver):
        with driver.session() as session:
            for _ in range(25):
                session.execute_write(
                    lambda tx: tx.run("MATCH (n:Counter) SET n.value = n.value + 1").consume())
            return "done"

    with context.driver() as driver:
        return [in_threads([lambda: work(driver)] * 8),
                context.direct("MATCH (n:Counter) RETURN n.value AS value")]


@scenario
def deadlock_is_retried(context):
    context.direct("CREATE (:Lock {id: 0, n: 0}), (:Lock {id: 1, n: 0})")
    meeting, attempts = threading.Barrier(2), [0, 0]

    def work(driver, mine):
        def both(tx):
            attempts[mine] += 1
            for step, lock in enumerate((mine, 1 - mine)):
                tx.run("MATCH (n:Lock {id: $id}) SET n.n = n.n + 1", id=lock).consume()
                if step == 0 and attempts[mine] == 1:
                    meeting.wait(20)
            return "done"
        with driver.session() as session:
            return session.execute_write(both)

    with context.driver() as driver:
        outcomes = in_threads([lambda: work(driver, 0), lambda: work(driver, 1)])
    return [outcomes, sum(attempts) > 2,
            context.direct("MATCH (n:Lock) WITH n ORDER BY n.id RETURN n.n AS n")]


@scenario
def transactions_side_by_side(context):
    with context.driver() as driver:
        sessions = [driver.session() for _ in range(3)]
        transactions = [session.begin_transaction() for session in sessions]
        for number in range(10):
            for index, tx in enumerate(transactions):
                tx.run("CREATE (:Side {i: $i, n: $n})", i=index, n=number).consume()
        counts = [one(tx, "MATCH (n:Side) RETURN count(n)") for tx in transactions]
        transactions[0].commit()
        transactions[1].rollback()
        transactions[2].commit()
        for session in sessions:
            session.close()
        return [counts, context.direct("MATCH (n:Side) RETURN count(n) AS n")]
