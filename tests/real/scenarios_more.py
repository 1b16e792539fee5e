"""Refusals, types of newer servers, and drivers that leave early. See harness.py."""

import uuid

import neo4j

from harness import attempt, needs, one, scenario

LARGE = 1000000


@scenario
def driver_closed_in_mid_stream(context):
    driver = context.driver()
    session = driver.session(fetch_size=100)
    rows = iter(session.run("UNWIND range(1, $n) AS x RETURN x", n=LARGE))
    seen = [next(rows)["x"] for _ in range(150)]
    driver.close()
    with context.driver() as other, other.session() as session:
        return [len(seen), seen[-1], one(session, "RETURN 1")]


@scenario
def access_mode(context):
    def write(session):
        return attempt(one, session, "CREATE (n:Access) RETURN 1")

    def write_in(managed):
        return attempt(managed, lambda tx: one(tx, "CREATE (n:Access) RETURN 1"))

    outcomes = []
    with context.driver() as driver:
        for mode in (neo4j.READ_ACCESS, neo4j.WRITE_ACCESS):
            with driver.session(default_access_mode=mode) as session:
                outcomes += [write(session), write_in(session.execute_read),
                             write_in(session.execute_write)]
        with driver.session() as session:
            return [outcomes, one(session, "MATCH (n:Access) RETURN count(n)")]


@scenario
@needs(server="neo4j")
def expired_password(context):
    first, second = "firstpass", "secondpass"
    context.direct(f"CREATE OR REPLACE USER bob SET PASSWORD '{first}'", database="system")

    def ask(password, query="RETURN 1", **options):
        with context.driver("bob", password) as driver, driver.session(**options) as session:
            return attempt(lambda: session.run(query, first=first, second=second).data())

    change = "ALTER CURRENT USER SET PASSWORD FROM $first TO $second"
    outcomes = [ask(first), ask(first, "SHOW DATABASES", database="system"),
                ask(first, change, database="system"), ask(second), ask(first)]
    context.direct("DROP USER bob", database="system")
    return outcomes


@scenario
@needs(driver=5, server="neo4j")
def notification_filters(context):
    # The driver itself refuses filters on a version of Bolt that has none.
    def told(driver_options, **session_options):
        return attempt(told_or_refused, driver_options, **session_options)

    def told_or_refused(driver_options, **session_options):
        with context.driver(**driver_options) as driver:
            with driver.session(**session_options) as session:
                summary = session.run("MATCH (n:NoSuchLabel), (m) RETURN n.no").consume()
                return [[note.code for note in summary.summary_notifications],
                        [status.gql_status for status in summary.gql_status_objects]]

    return [told({}), told({"notifications_min_severity": "OFF"}),
            told({"notifications_disabled_categories": ["UNRECOGNIZED"]}),
            told({}, notifications_min_severity="WARNING"),
            told({"notifications_min_severity": "OFF"}, notifications_min_severity="INFORMATION")]


@scenario
@needs(driver=5, server="neo4j")
def bookmark_managers(context):
    manager = neo4j.GraphDatabase.bookmark_manager()
    counts = []
    with context.driver() as driver:
        for _ in range(5):
            driver.execute_query("CREATE (:Managed)", bookmark_manager_=manager)
            with driver.session(bookmark_manager=manager) as session:
                counts.append(session.execute_read(
                    lambda tx: one(tx, "MATCH (n:Managed) RETURN count(n)")))
        return [counts, len(manager.get_bookmarks())]


@scenario
@needs(driver=6, server="neo4j-2026")
def vectors(context):
    texts = ("vector([1, 2, 3], 3, INTEGER8)", "vector([1.5, -2], 2, FLOAT32)",
             "vector([1, 2], 2, INTEGER64)", "[vector([0.25], 1, FLOAT64)]")
    outcomes = []
    with context.driver() as driver, driver.session() as session:
        for text in texts:
            result = session.run(f"CYPHER 25 RETURN {text} AS v")
            outcomes += [repr(result.single()["v"]),
                         [status.gql_status for status in result.consume().gql_status_objects]]
        vector = neo4j.vector.Vector.from_native([1.0, 2.5, -3.0], "f32")
        outcomes.append(attempt(lambda: repr(one(session, "RETURN $v", v=vector))))
        outcomes.append(attempt(lambda: repr(one(session, "RETURN $v", v=uuid.UUID(int=7)))))
    return outcomes
