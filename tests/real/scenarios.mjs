// Everyday use of the official JavaScript driver. Prints one line of JSON for each scenario, in
// the form that harness.py has; the caller compares a direct run with one through the proxy.
//
// Usage: node scenarios.mjs DRIVER_FOLDER --uri URI --direct URI [--only NAMES]

import { createHash, randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'

const [folder, ...rest] = process.argv.slice(2)
const neo4j = createRequire(folder + '/')('neo4j-driver')
const given = Object.fromEntries(
  rest.flatMap((word, index) => (word.startsWith('--') ? [[word.slice(2), rest[index + 1]]] : [])))
const PASSWORDS = { neo4j: 'secretpass', alice: 'alicepass' }
const BUSY = 'UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n'
const LIMIT_MS = 90_000
const HUNG_MAX = 3
const scenarios = {}

function check (truth, what) {
  if (!truth) throw Object.assign(new Error(what), { failed: what })
}

function errorOf (error) {
  if (error.failed) throw error
  if (error.code === undefined) console.error(error)
  return { error: error.code ?? error.name, gql_status: error.gqlStatus, class: error.name }
}

async function attempt (work) {
  try {
    return await work()
  } catch (error) {
    return errorOf(error)
  }
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

class Context {
  constructor () {
    this.tag = randomUUID()
    this.observer = neo4j.driver(given.direct, neo4j.auth.basic('neo4j', PASSWORDS.neo4j),
      { disableLosslessIntegers: true })
    this.drivers = []
  }

  driver (user = 'neo4j', password = PASSWORDS[user], options = {}) {
    const driver = neo4j.driver(given.uri, neo4j.auth.basic(user, password),
      { disableLosslessIntegers: true, maxTransactionRetryTime: 20000, ...options })
    this.drivers.push(driver)
    return driver
  }

  async direct (query, parameters = {}) {
    const { records } = await this.observer.executeQuery(query, parameters)
    return records.map(record => record.toObject())
  }

  async untilNoTransaction () {
    const query = 'SHOW TRANSACTIONS YIELD metaData WHERE metaData["tag"] = $tag RETURN metaData'
    for (let left = 400; left > 0; left--) {
      if ((await this.direct(query, { tag: this.tag })).length === 0) return
      await sleep(50)
    }
    check(false, 'expected the server to have ended the abandoned transaction within 20 s')
  }

  // The ids that the server gave to the transaction and its connection, once it shows them.
  async findTransaction () {
    const query = 'SHOW TRANSACTIONS YIELD transactionId, connectionId, metaData' +
      ' WHERE metaData["tag"] = $tag RETURN transactionId, connectionId'
    for (let left = 400; left > 0; left--) {
      const found = await this.direct(query, { tag: this.tag })
      if (found.length > 0) return found[0]
      await sleep(50)
    }
    check(false, 'expected the server to show the transaction within 20 s')
  }

  async close () {
    await Promise.all([this.observer, ...this.drivers].map(driver => driver.close()))
  }
}

async function one (runner, query, parameters = {}, config = undefined) {
  return (await runner.run(query, parameters, config)).records[0].get(0)
}

async function using (driver, work, options = {}) {
  const session = driver.session(options)
  try {
    return await work(session)
  } finally {
    await session.close()
  }
}

scenarios.connectivity = async context => {
  const driver = context.driver()
  await driver.verifyConnectivity()
  const info = await driver.getServerInfo()
  return [info.agent, String(info.protocolVersion), await driver.supportsMultiDb(),
    await driver.supportsSessionAuth(), await driver.supportsUserImpersonation()]
}

scenarios.auto_commit = context => using(context.driver(), async session => {
  const made = await session.run('CREATE (n:Made {id: 1}) RETURN n.id AS id')
  return [made.records.map(record => record.toObject()), made.summary.counters.updates(),
    made.summary.queryType, made.summary.database.name, made.summary.server.agent,
    made.summary.gqlStatusObjects.map(status => status.gqlStatus),
    await one(session, 'MATCH (n:Made) RETURN count(n)')]
})

scenarios.managed_transactions = context => using(context.driver(), async session => {
  let attempts = 0
  const written = await session.executeWrite(async tx => {
    attempts++
    await tx.run('CREATE (:Managed)')
    if (attempts === 1) {
      throw new neo4j.Neo4jError('again', 'Neo.TransientError.Transaction.DeadlockDetected')
    }
    return one(tx, 'MATCH (n:Managed) RETURN count(n)')
  }).catch(errorOf)
  const read = await session.executeRead(tx => one(tx, 'MATCH (n:Managed) RETURN count(n)'))
  const refused = await attempt(() => session.executeRead(tx => tx.run('CREATE (:Managed)')))
  return [attempts, written, read, refused]
})

scenarios.explicit_transactions = context => using(context.driver(), async session => {
  for (const [id, end] of [[1, 'commit'], [2, 'rollback'], [3, 'close']]) {
    const tx = session.beginTransaction()
    await tx.run('CREATE (:Explicit {id: $id})', { id })
    await tx[end]()
  }
  const tx = await session.beginTransaction()
  await tx.commit()
  return one(session, 'MATCH (n:Explicit) RETURN sum(n.id)')
})

scenarios.abandoned = async context => {
  const driver = context.driver()
  const tx = await driver.session().beginTransaction({ metadata: { tag: context.tag } })
  await tx.run('CREATE (:Abandoned)')
  await driver.close()
  await context.untilNoTransaction()
  return context.direct('MATCH (n:Abandoned) RETURN count(n) AS n')
}

scenarios.two_open_results = context => using(context.driver(), async session => {
  const tx = await session.beginTransaction()
  const results = await Promise.all([
    tx.run('UNWIND range(1, 5000) AS x RETURN x'),
    tx.run('UNWIND range(5000, 1, -1) AS x RETURN x'), tx.run('RETURN 3 AS x')])
  const up = tx.run('UNWIND range(1, 1000) AS x RETURN x')[Symbol.asyncIterator]()
  const down = tx.run('UNWIND range(1000, 1, -1) AS x RETURN x')[Symbol.asyncIterator]()
  const sums = new Set()
  for (let step = 0; step < 1000; step++) {
    sums.add((await up.next()).value.get('x') + (await down.next()).value.get('x'))
  }
  await tx.commit()
  return [results.map(result => result.records.length), [...sums]]
}, { fetchSize: 100 })

const manyRows = fetchSize => context => using(context.driver(), async session => {
  const digest = createHash('sha256')
  let count = 0
  const query = 'UNWIND range(1, 100000) AS x RETURN x, toString(x) AS text, [x, x + 1] AS list'
  for await (const record of session.run(query)) {
    digest.update(JSON.stringify(record.toObject()))
    count++
  }
  return [count, digest.digest('hex'), await one(session, 'RETURN 1')]
}, { fetchSize })

scenarios.rows_100k_by_hundreds = manyRows(100)
scenarios.rows_100k_at_once = manyRows(neo4j.FETCH_ALL)

scenarios.partly_read_results = async context => {
  const driver = context.driver('neo4j', PASSWORDS.neo4j, { maxConnectionPoolSize: 1 })
  const seen = await using(driver, async session => {
    const seen = []
    for await (const record of session.run('UNWIND range(1, 1000) AS x RETURN x')) {
      seen.push(record.get('x'))
      if (seen.length === 15) break
    }
    return seen
  }, { fetchSize: 10 })
  return [seen, await using(driver, session => one(session, 'RETURN 1'))]
}

scenarios.parameter_of_20_mebibytes = context => using(context.driver(), async session => {
  const text = 'abcdefghij'.repeat(2 * 1024 * 1024)
  return [await one(session, 'RETURN size($text)', { text }), await one(session, 'RETURN 1')]
})

scenarios.result_of_20_mebibytes = context => using(context.driver(), async session => {
  const query = 'RETURN reduce(a = $s, i IN range(1, 10) | a + a)'
  const text = await one(session, query, { s: '0123456789'.repeat(2048) })
  check(text.length === 20 * 1024 * 1024, `expected 20 MiB, came ${text.length} bytes`)
  return [createHash('sha256').update(text).digest('hex'), await one(session, 'RETURN 1')]
})

scenarios.bookmarks = async context => {
  const [writer, reader] = [context.driver(), context.driver()]
  const seen = []
  let bookmarks = []
  for (let round = 0; round < 20; round++) {
    bookmarks = await using(writer, async session => {
      await session.executeWrite(tx => tx.run('CREATE (:Marked)'))
      return session.lastBookmarks()
    }, { bookmarks })
    seen.push(await using(reader, session => session.executeRead(
      tx => one(tx, 'MATCH (n:Marked) RETURN count(n)')), { bookmarks, defaultAccessMode: 'READ' }))
  }
  const refused = await attempt(() => using(reader, session => one(session, 'RETURN 1'),
    { bookmarks: ['not a bookmark'] }))
  return [seen, bookmarks.length, refused]
}

scenarios.tx_timeout = context => using(context.driver(), async session => {
  const plain = await attempt(() => one(session, BUSY, {}, { timeout: 1000 }))
  const managed = await attempt(() => session.executeWrite(tx => one(tx, BUSY), { timeout: 1000 }))
  return [plain, managed, await one(session, 'RETURN 1')]
})

scenarios.transaction_metadata = context => using(context.driver(), async session => {
  const query = 'SHOW TRANSACTIONS YIELD metaData, username WHERE metaData["tag"] = $tag' +
    ' RETURN metaData["n"] AS n, username'
  const tx = await session.beginTransaction({ metadata: { tag: context.tag, n: 1 } })
  await tx.run('RETURN 1')
  await context.findTransaction()
  const seen = await context.direct(query, { tag: context.tag })
  await tx.commit()
  const text = 'CALL tx.getMetaData() YIELD metadata RETURN metadata'
  return [seen, await one(session, text, {}, { metadata: { n: 2 } }), await one(session, text)]
})

scenarios.wrong_password = context => using(context.driver('alice'), async session => {
  const logIn = password => attempt(async () => {
    await context.driver('alice', password).getServerInfo()
    return 'in'
  })
  return [await one(session, 'RETURN 1'), await logIn('wrongpass'), await logIn('wrongagain'),
    await one(session, 'RETURN 2'), await logIn(PASSWORDS.alice), await one(session, 'RETURN 3')]
})

scenarios.errors_and_recovery = context => using(context.driver(), async session => {
  const outcomes = []
  for (const query of ['RETRUN 1', 'RETURN 1/0', 'RETURN $missing', 'CALL no.such()',
    'UNWIND range(3000, 0, -1) AS x RETURN 1 / x']) {
    outcomes.push(await attempt(() => one(session, query)), await one(session, 'RETURN 1'))
  }
  const tx = await session.beginTransaction()
  outcomes.push(await attempt(() => tx.run('RETRUN 1')), await attempt(() => tx.run('RETURN 1')))
  outcomes.push(await attempt(() => tx.commit()))
  await tx.close()
  return [...outcomes, await one(session, 'RETURN 2')]
})

scenarios.refused_by_this_edition = async context => {
  const driver = context.driver()
  const ask = options => attempt(() => using(driver, session => one(session, 'RETURN 1'), options))
  return [await ask({ database: 'nope' }), await ask({ impersonatedUser: 'alice' }),
    await ask({ database: 'system' }), await ask({ database: 'neo4j' })]
}

scenarios.two_users = async context => {
  const ask = async user => {
    const driver = context.driver(user)
    await Promise.all(Array.from({ length: 50 }, () => using(driver, async session => {
      const seen = await one(session, 'SHOW CURRENT USER YIELD user RETURN user')
      check(seen === user, `expected to be ${user}, was ${seen}`)
    })))
    return user
  }
  return Promise.all([ask('neo4j'), ask('alice')])
}

scenarios.two_users_of_one_driver = async context => {
  const driver = context.driver()
  const ask = (user, password) => attempt(() => using(driver,
    session => one(session, 'SHOW CURRENT USER YIELD user RETURN user'),
    user ? { auth: neo4j.auth.basic(user, password) } : {}))
  return [await ask('alice', 'alicepass'), await ask('neo4j', 'secretpass'), await ask(),
    await ask('alice', 'wrongpass'), await ask('alice', 'alicepass'), await ask()]
}

scenarios.sessions_200_at_once = async context => {
  const driver = context.driver('neo4j', PASSWORDS.neo4j, { maxConnectionPoolSize: 200 })
  const wrong = []
  await Promise.all(Array.from({ length: 200 }, (_, n) => using(driver, async session => {
    await session.executeWrite(tx => tx.run('CREATE (:Busy {number: $n})', { n }))
    const back = await session.executeRead(tx => one(tx, 'RETURN $n', { n }))
    if (back !== n) wrong.push([n, back])
  })))
  return [wrong, await context.direct('MATCH (n:Busy) RETURN sum(n.number) AS sum')]
}

scenarios.connection_ended_by_the_server = context => using(context.driver(), async session => {
  let attempts = 0
  const count = await session.executeWrite(async tx => {
    attempts++
    await tx.run('CREATE (:Cut)')
    if (attempts === 1) {
      const { connectionId } = await context.findTransaction()
      await context.direct('CALL dbms.killConnection($connectionId)', { connectionId })
    }
    try {
      return await one(tx, 'MATCH (n:Cut) RETURN count(n)')
    } catch (error) {
      // This driver's own slip when it has seen the connection's end before the statement.
      if (!(error instanceof TypeError)) throw error
      throw new neo4j.Neo4jError('the connection is gone', neo4j.error.SERVICE_UNAVAILABLE)
    }
  }, { metadata: { tag: context.tag } })
  return [count, attempts, await one(session, 'MATCH (n:Cut) RETURN count(n)')]
})

scenarios.busy_connection_ended_by_the_server = async context => {
  const ended = await attempt(() => using(context.driver(), async session => {
    const tx = await session.beginTransaction({ metadata: { tag: context.tag } })
    const busy = tx.run(BUSY)
    const { connectionId } = await context.findTransaction()
    await context.direct('CALL dbms.killConnection($connectionId)', { connectionId })
    await busy
  }))
  await context.untilNoTransaction()
  return [ended, await using(context.driver(), session => one(session, 'RETURN 1'))]
}

scenarios.execute_query = async context => {
  const driver = context.driver()
  const made = await driver.executeQuery('UNWIND $ids AS id CREATE (n:Query {id: id}) RETURN id',
    { ids: [1, 2, 3] }, { database: 'neo4j' })
  const read = await driver.executeQuery('MATCH (n:Query) RETURN n.id AS id ORDER BY id', {},
    { routing: neo4j.routing.READ })
  return [made.keys, made.summary.counters.updates().nodesCreated,
    read.records.map(record => record.get('id')),
    await attempt(() => driver.executeQuery('RETRUN 1')),
    await attempt(() => driver.executeQuery('CREATE (n)', {}, { routing: neo4j.routing.READ }))]
}

scenarios.values_there_and_back = context => using(context.driver(), async session => {
  const { types } = neo4j
  const values = [null, true, -1.5, '\u00fc\u4e2d\u{1F600}', 'x'.repeat(70000), [1, [2, []]],
    { a: { b: [1, null] } }, neo4j.int('9007199254740993'), new Int8Array(300).fill(7),
    new types.Date(2024, 2, 29), new types.Duration(1, 2, 3, 4), new types.LocalTime(1, 2, 3, 4),
    new types.DateTime(2024, 7, 1, 12, 0, 0, 5, 3600), new types.Point(7203, 1.5, -2.5)]
  const back = await one(session, 'RETURN $values', { values })
  const made = await session.run('CREATE p = (a:A {x: 1})-[r:R {y: 2}]->(b:B) RETURN a, r, p')
  const [node, edge, path] = made.records[0].map(value => value)
  return [back.map(value => String(value) + JSON.stringify(value)), node.labels, node.properties,
    edge.type, edge.properties, path.length]
})

async function runOne (work) {
  const context = new Context()
  const late = sleep(LIMIT_MS).then(() => ({ failed: `still running after ${LIMIT_MS} ms` }))
  const run = async () => {
    await context.direct('MATCH (n) DETACH DELETE n')
    return work(context)
  }
  const outcome = await Promise.race([late, run().catch(
    error => (error.failed ? { failed: error.failed } : errorOf(error)))])
  await Promise.race([context.close(), sleep(2000)])
  return outcome
}

let hung = 0
const wanted = (given.only ?? '').split(',').filter(name => name)
for (const [name, work] of Object.entries(scenarios)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const started = performance.now()
  const outcome = await runOne(work)
  const line = { name, outcome, seconds: (performance.now() - started) / 1000 }
  process.stdout.write(JSON.stringify(
    line, (_, value) => (typeof value === 'bigint' ? String(value) : value)) + '\n')
  if (outcome.failed?.startsWith('still running') && ++hung === HUNG_MAX) break
}
// What is written to a pipe is not there yet when the call returns.
process.stdout.write('', () => process.exit(0))
