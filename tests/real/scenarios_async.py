"""The asynchronous half of the official Python driver. See harness.py."""

import asyncio

import neo4j

from harness import check, error_of, needs, scenario
from support import PASSWORDS

BUSY = "UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n"


def driver_of(context):
    return neo4j.AsyncGraphDatabase.driver(context.uri, auth=("neo4j", PASSWORDS["neo4j"]))


async def one(session, query, **parameters):
    result = await session.run(query, parameters)
    return (await result.single(strict=True))[0]


@scenario
@needs(driver=5)
def async_everyday_use(context):
    async def work():
        async with driver_of(context) as driver:
            async with driver.session() as session:
                await session.execute_write(run_create)
                plain = await one(session, "MATCH (n:Async) RETURN count(n)")
                tx = await session.begin_transaction()
                await tx.run("CREATE (:Async)")
                await tx.rollback()
                result = await session.run("UNWIND range(1, 5000) AS x RETURN x")
                total = sum([record["x"] async for record in result])
            queried = await driver.execute_query("MATCH (n:Async) RETURN count(n) AS n")
            return [plain, total, queried.records[0]["n"]]

    async def run_create(tx):
        await (await tx.run("CREATE (:Async)")).consume()

    return asyncio.run(work())


@scenario
@needs(driver=5)
def async_many_at_once(context):
    async def work():
        async with driver_of(context) as driver:
            async def ask(number):
                async with driver.session() as session:
                    return await one(session, "RETURN $n", n=number)

            answers = await asyncio.gather(*(ask(number) for number in range(100)))
            return answers == list(range(100))

    return asyncio.run(work())


@scenario
@needs(driver=5, server="neo4j")
def async_query_cancelled(context):
    """The server stops working for a query whose task was cancelled; the driver works on."""
    async def work():
        async with driver_of(context) as driver:
            async def busy():
                async with driver.session() as session:
                    query = neo4j.Query(BUSY, metadata={"tag": context.tag})
                    await (await session.run(query)).consume()

            task = asyncio.create_task(busy())
            await asyncio.sleep(1)
            check(not task.done(), "expected the busy query to run for more than 1 s")
            task.cancel()
            try:
                await task
                outcome = "not cancelled"
            except asyncio.CancelledError:
                outcome = "cancelled"
            async with driver.session() as session:
                after = await one(session, "RETURN 1")
            await asyncio.to_thread(context.until_no_transaction, context.tag)
            return [outcome, after]

    return asyncio.run(work())


@scenario
@needs(driver=5, server="neo4j")
def async_query_timed_out(context):
    """asyncio.wait_for around a transaction, many times, leaves nothing behind."""
    async def work():
        async with driver_of(context) as driver:
            async def busy():
                async with driver.session() as session:
                    tx = await session.begin_transaction(metadata={"tag": context.tag})
                    await tx.run("CREATE (:Late)")
                    await (await tx.run(BUSY)).consume()

            outcomes = []
            for _ in range(6):
                try:
                    await asyncio.wait_for(busy(), 0.3)
                except asyncio.TimeoutError:
                    outcomes.append("timed out")
                except neo4j.exceptions.DriverError as error:
                    outcomes.append(error_of(error))
            async with driver.session() as session:
                after = await one(session, "MATCH (n:Late) RETURN count(n)")
            await asyncio.to_thread(context.until_no_transaction, context.tag)
            return [outcomes, after]

    return asyncio.run(work())
