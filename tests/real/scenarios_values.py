"""Values and summaries: what the server said must arrive unchanged. See harness.py."""

import datetime
import math

import neo4j
from neo4j import time as neo4j_time
from neo4j.spatial import CartesianPoint, WGS84Point

from harness import needs, scenario

VALUES = [
    None, True, False, 0, -1, 127, 128, -17, 2**31, 2**63 - 1, -(2**63), 0.0, -0.0, 1.5e300,
    math.inf, -math.inf, math.nan,
    "", "text", "\u00fc\u4e2d\U0001f600\0", "x" * 70000, b"", b"\0\xff" * 500,
    bytearray(70000), [], [1, [2, [3, []]]], list(range(300)), {}, {"a": {"b": {"c": [1, None]}}},
    {str(key): key for key in range(300)},
    datetime.date(2024, 2, 29), neo4j_time.Time(23, 59, 59, 999999999),
    neo4j_time.DateTime(1970, 1, 1, 0, 0, 0, 1), neo4j_time.Duration(1, 2, 3, 4),
    datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=5))),
    CartesianPoint((1.5, -2.5)), CartesianPoint((1, 2, 3)), WGS84Point((12.5, 55.7)),
]


@scenario
def values_there_and_back(context):
    with context.driver() as driver, driver.session() as session:
        back = [repr(session.run("RETURN $value AS v", value=value).single()["v"])
                for value in VALUES]
        together = session.run("RETURN $values AS v", values=[[value] for value in VALUES])
        return [back, repr(together.single()["v"])]


@scenario
def zoned_times(context):
    query = ("RETURN datetime('2024-03-31T02:30:00[Europe/Berlin]') AS zone,"
             " datetime('2024-03-31T02:30:00+05:30') AS offset, time('10:11:12.5Z') AS time,"
             " localdatetime('2024-03-31T02:30:00') AS local, point({x: 1, y: 2}) AS point")
    with context.driver() as driver, driver.session() as session:
        return repr(session.run(query).single().values())


@scenario
@needs(driver=5)
def nodes_relationships_paths(context):
    with context.driver() as driver, driver.session() as session:
        record = session.run(
            "CREATE p = (a:A:B {x: 1})-[r:KNOWS {since: date('2020-01-01')}]->(b:C {y: [1, 2]})"
            " RETURN a, r, b, p").single()
        start, edge, end, path = record.values()
        return [sorted(start.labels), dict(start), edge.type, str(edge["since"]), dict(end),
                [sorted(node.labels) for node in path.nodes], len(path.relationships),
                edge.start_node.element_id == start.element_id,
                path.end_node.element_id == end.element_id]


@scenario
@needs(driver=5, server="neo4j")
def summaries(context):
    def told(query, **options):
        with driver.session(**options) as session:
            result = session.run(query)
            keys = list(result.keys())
            summary = result.consume()
            return [keys, summary.query_type, summary.database, summary.server.agent,
                    str(summary.server.protocol_version), vars(summary.counters),
                    [status.gql_status for status in summary.gql_status_objects],
                    summary.plan is not None, summary.profile is not None]

    with context.driver() as driver:
        outcomes = [told(query) for query in (
            "CREATE (n:Told {x: 1})-[:R]->() RETURN n", "MATCH (n:NoSuchLabel) RETURN n.no",
            "EXPLAIN MATCH (n) RETURN n", "PROFILE MATCH (n) RETURN count(n)",
            "MATCH (n:Told) SET n.x = 2", "MATCH (a), (b) RETURN count(*)")]
        outcomes.append(told("MATCH (n:NoSuchLabel) RETURN n", notifications_min_severity="OFF"))
        outcomes.append(told("SHOW USERS", database="system"))
    with context.driver(notifications_disabled_classifications=["UNRECOGNIZED"]) as driver:
        outcomes.append(told("MATCH (n:NoSuchLabel) RETURN n"))
    return outcomes


@scenario
def many_small_parameters(context):
    people = [{"id": number, "name": f"person {number}"} for number in range(20000)]
    with context.driver() as driver, driver.session() as session:
        made = session.execute_write(lambda tx: tx.run(
            "UNWIND $people AS person CREATE (p:Person) SET p = person RETURN count(p) AS n",
            people=people).single()["n"])
        listed = session.execute_read(lambda tx: tx.run(
            "MATCH (p:Person) RETURN sum(p.id) AS sum, count(DISTINCT p.name) AS names").data())
        return [made, listed]


@scenario
@needs(server="neo4j")
def calls_in_transactions(context):
    with context.driver() as driver, driver.session() as session:
        counters = session.run(
            "UNWIND range(1, 5000) AS x CALL (x) { CREATE (:Batch {x: x}) }"
            " IN TRANSACTIONS OF 1000 ROWS").consume().counters
        inside = session.begin_transaction()
        try:
            inside.run("CALL { CREATE (:Batch) } IN TRANSACTIONS").consume()
            refused = "nothing"
        except neo4j.exceptions.Neo4jError as error:
            refused = error.code
        inside.close()
        return [counters.nodes_created, refused,
                session.run("MATCH (n:Batch) RETURN sum(n.x) AS s").data()]
