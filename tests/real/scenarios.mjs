// Everyday use of the official JavaScript driver. Makes one line of JSON for each scenario, in the
// form that harness.py has; the caller compares a direct run with one through the proxy.
//
// It needs nothing but the driver, so that it runs under Node (node.mjs) and in a web page
// (chromium.mjs). Works with the drivers 6, 5 and 4.4; what an older one lacks is left out.

const PASSWORDS = { neo4j: 'secretpass', alice: 'alicepass' }
const BUSY = 'UNWIND range(1, 10000000000) AS i WITH i WHERE i < 0 RETURN count(i) AS n'
const LIMIT_MS = 90_000
const HUNG_MAX = 3
const scenarios = {}
let neo4j
let given

// What a scenario needs; all others run with every driver and server, and in a web page.
const NEEDS = {
  parameter_of_20_mebibytes: { servers: /^neo4j/ },
  abandoned: { servers: /^neo4j/ },
  tx_timeout: { servers: /^neo4j/ },
  transaction_metadata: { servers: /^neo4j/ },
  connection_ended_by_the_server: { servers: /^neo4j/, place: 'node' },
  busy_connection_ended_by_the_server: { servers: /^neo4j/, place: 'node' },
  two_users: { servers: /^neo4j/ },
  bookmark_of_the_future: { servers: /^neo4j/ },
  expired_password: { servers: /^neo4j/ },
  two_users_of_one_driver: { servers: /^neo4j/, since: 5 },
  notification_filters: { servers: /^neo4j/, since: 5 },
  execute_query: { since: 5 },
  two_open_results: { since: 5 },
  partly_read_results: { since: 5 },
  summaries: { servers: /^neo4j/ },
  transaction_ended_by_another: { servers: /^neo4j/ },
  vectors: { servers: /^neo4j-2026/, since: 6 }
}

// Runs the scenarios with this driver. `options`: uri, direct, only, server and driver, all texts.
export async function runAll (driver, options, write) {
  neo4j = driver
  given = options
  const wanted = (given.only ?? '').split(',').filter(name => name)
  let hung = 0
  for (const [name, work] of Object.entries(scenarios)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    const started = performance.now()
    const outcome = leftOut(NEEDS[name]) ?? await runOne(work)
    const line = { name, outcome, seconds: (performance.now() - started) / 1000 }
    write(JSON.stringify(line, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
    if (outcome?.failed?.startsWith('still running') && ++hung === HUNG_MAX) break
  }
}

function leftOut ({ since = 0, servers = /./, place } = {}) {
  // In a web page this driver waits for ever when a connection ends while it is used.
  if (place === 'node' && globalThis.window) return { skipped: 'hangs in a web page directly too' }
  if (parseInt(given.driver) < since) return { skipped: `the driver ${since} or newer has it` }
  return servers.test(given.server) ? undefined : { skipped: 'this server has it not' }
}

// 32 bits that change with every character (FNV-1a), for texts that are too long to compare.
function digestOf (text, before = 0x811c9dc5) {
  let digest = before
  for (let at = 0; at < text.length; at++) {
    digest = Math.imul(digest ^ text.charCodeAt(at), 0x01000193)
  }
  return digest
}

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
    this.tag = crypto.randomUUID()
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
    const { records } = await using(this.observer, session => session.run(query, parameters))
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
  // With `busyWith` only once the server works on that statement.
  async findTransaction (busyWith = '') {
    const query = 'SHOW TRANSACTIONS YIELD transactionId, connectionId, metaData, currentQuery' +
      ' WHERE metaData["tag"] = $tag AND (currentQuery = $busyWith OR $busyWith = "")' +
      ' RETURN transactionId, connectionId'
    for (let left = 400; left > 0; left--) {
      const found = await this.direct(query, { tag: this.tag, busyWith })
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
  session.executeWrite ??= session.writeTransaction // The names that the driver 4.4 has.
  session.executeRead ??= session.readTransaction
  try {
    return await work(session)
  } finally {
    await session.close()
  }
}

scenarios.connectivity = async context => {
  const driver = context.driver()
  await driver.verifyConnectivity()
  const { server } = (await using(driver, session => session.run('RETURN 1'))).summary
  return [server.agent, String(server.protocolVersion), await driver.supportsMultiDb(),
    await driver.supportsSessionAuth?.(), await driver.supportsUserImpersonation?.()]
}

scenarios.auto_commit = context => using(context.driver(), async session => {
  const made = await session.run('CREATE (n:Made {id: 1}) RETURN n.id AS id')
  return [made.records.map(record => record.toObject()), made.summary.counters.updates(),
    made.summary.queryType, made.summary.database.name, made.summary.server.agent,
    made.summary.gqlStatusObjects?.map(status => status.gqlStatus),
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
  const refused = await attempt(() => session.executeRead(
    tx => tx.run('CREATE (:Managed)').then(() => 'written')))
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
  let [digest, count] = [undefined, 0]
  const query = 'UNWIND range(1, 100000) AS x RETURN x, toString(x) AS text, [x, x + 1] AS list'
  const result = session.run(query)
  const rows = result[Symbol.asyncIterator] ? result : (await result).records
  for await (const record of rows) {
    digest = digestOf(JSON.stringify(record.toObject()), digest)
    count++
  }
  return [count, digest, await one(session, 'RETURN 1')]
}, { fetchSize })

scenarios.rows_100k_by_hundreds = manyRows(100)
scenarios.rows_100k_at_once = manyRows(-1)

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
  return [digestOf(text), await one(session, 'RETURN 1')]
})

scenarios.large_transaction = context => using(context.driver(), async session => {
  const people = Array.from({ length: 1000 }, (_, id) => ({ id, name: `n${id}` }))
  await session.executeWrite(async tx => {
    for (let round = 0; round < 20; round++) {
      await tx.run('UNWIND $people AS p CREATE (n:Person) SET n = p, n.round = $round',
        { people, round })
    }
  })
  return context.direct('MATCH (n:Person) RETURN count(n) AS n, sum(n.id) AS sum')
})

const bookmarksOf = session => session.lastBookmarks?.() ?? session.lastBookmark()

scenarios.bookmarks = async context => {
  const [writer, reader] = [context.driver(), context.driver()]
  const seen = []
  let bookmarks = []
  for (let round = 0; round < 20; round++) {
    bookmarks = await using(writer, async session => {
      await session.executeWrite(tx => tx.run('CREATE (:Marked)'))
      return bookmarksOf(session)
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
    await using(context.driver('alice', password), session => session.run('RETURN 1'))
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

scenarios.error_inside_a_transaction = context => using(context.driver(), async session => {
  const tx = await session.beginTransaction()
  await tx.run('CREATE (:Doomed)')
  const outcomes = [await attempt(() => one(tx, 'RETRUN 1')),
    await attempt(() => one(tx, 'RETURN 1')), await attempt(() => tx.commit())]
  await tx.close()
  const managed = await attempt(() => session.executeWrite(
    tx => tx.run('CREATE (:Doomed)').then(() => one(tx, 'RETURN 1 / 0'))))
  return [outcomes, managed, await one(session, 'MATCH (n:Doomed) RETURN count(n)')]
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

scenarios.transaction_ended_by_another = context => using(context.driver(), async session => {
  const tx = await session.beginTransaction({ metadata: { tag: context.tag } })
  await tx.run('CREATE (:Ended)')
  const { transactionId } = await context.findTransaction()
  await context.direct('TERMINATE TRANSACTION $transactionId', { transactionId })
  const ended = await attempt(() => one(tx, 'RETURN 1'))
  await attempt(() => tx.close())
  return [ended, await one(session, 'MATCH (n:Ended) RETURN count(n)')]
})

scenarios.busy_connection_ended_by_the_server = async context => {
  const ended = await attempt(() => using(context.driver(), async session => {
    const tx = await session.beginTransaction({ metadata: { tag: context.tag } })
    const busy = tx.run(BUSY)
    // Killed before the statement is there, a connection ends without a word.
    const { connectionId } = await context.findTransaction(BUSY)
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
    await attempt(() => driver.executeQuery('CREATE (n)', {}, { routing: neo4j.routing.READ })
      .then(() => 'written'))]
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

scenarios.nodes_relationships_paths = context => using(context.driver(), async session => {
  const { records } = await session.run('CREATE p = (a:A:B {x: 1})-[r:KNOWS {since:' +
    " date('2020-01-01')}]->(b:C {y: [1, 2]})<-[:LIKES]-(:D) RETURN a, r, b, p")
  const [start, edge, end, path] = records[0].map(value => value)
  const plain = ({ labels, properties }) => [[...labels].sort(), JSON.stringify(properties)]
  // Before Bolt 5 there are no ids but numbers.
  const same = (one, other) => one.identity === other.identity && one.elementId === other.elementId
  return [plain(start), plain(end), edge.type, String(edge.properties.since),
    same(path.start, start), same(path.segments[0].end, end), path.length,
    path.segments.map(segment => [plain(segment.start), segment.relationship.type,
      plain(segment.end)])]
})

scenarios.zoned_times = context => using(context.driver(), async session => {
  const texts = ['2024-03-31T02:30:00[Europe/Berlin]', '2024-10-27T02:30:00+01:00[Europe/Berlin]',
    '1969-12-31T23:59:59.999999999-05:00', '0001-01-01T00:00:00Z', '9999-12-31T23:59:59+18:00']
  const back = []
  for (const text of texts) {
    const there = await one(session, 'RETURN datetime($text)', { text })
    back.push([String(there), await one(session, 'RETURN toString($there)', { there })])
  }
  const { Time, LocalDateTime, Date: Day } = neo4j.types
  const values = [new Time(10, 11, 12, 5, -3600), new LocalDateTime(2024, 3, 31, 2, 30, 0, 1),
    new Day(-44, 3, 15)]
  return [back, (await one(session, 'RETURN $values', { values })).map(String)]
})

scenarios.points_and_durations = context => using(context.driver(), async session => {
  const { Point, Duration } = neo4j.types
  const values = [new Point(4326, 12.5, 55.7), new Point(4979, 12.5, 55.7, 100),
    new Point(7203, -1, 2), new Point(9157, 1, 2, 3), new Duration(-1, 40, 100000, 999999999)]
  const back = await one(session, 'RETURN $values', { values })
  const made = await one(session, "RETURN [duration('P1Y2M3DT4H5M6.7S'), point({x: 1, y: 2})]")
  return [back.map(String), made.map(String)]
})

scenarios.bytes_there_and_back = context => using(context.driver(), async session => {
  const back = []
  for (const size of [0, 1, 255, 256, 65535, 65536, 300000]) {
    const bytes = new Int8Array(size).map((_, at) => at % 251)
    const came = new Int8Array(await one(session, 'RETURN $bytes', { bytes }))
    back.push([came.length, digestOf(came.join())])
  }
  return back
})

scenarios.driver_closed_in_mid_stream = async context => {
  const driver = context.driver()
  let count = 0
  const stream = driver.session({ fetchSize: 100 }).run('UNWIND range(1, 1000000) AS x RETURN x')
  await new Promise((resolve, reject) => stream.subscribe({
    onNext: () => { if (++count === 150) resolve(driver.close()) },
    onCompleted: reject,
    onError: () => {}
  }))
  return [count >= 150, await using(context.driver(), session => one(session, 'RETURN 1'))]
}

scenarios.access_mode = async context => {
  const driver = context.driver()
  const write = session => attempt(() => one(session, 'CREATE (n:Access) RETURN 1'))
  const outcomes = []
  for (const defaultAccessMode of ['READ', 'WRITE']) {
    outcomes.push(await using(driver, write, { defaultAccessMode }))
    outcomes.push(await using(driver, session => attempt(() => session.executeRead(
      tx => tx.run('CREATE (:Access)').then(() => 'written'))), { defaultAccessMode }))
  }
  return [outcomes, await using(driver, session => one(session, 'MATCH (n:Access) RETURN count(n)'))]
}

scenarios.deadlock_is_retried = async context => {
  await context.direct('CREATE (:Lock {id: 0, n: 0}), (:Lock {id: 1, n: 0})')
  const driver = context.driver()
  const attempts = [0, 0]
  const reached = [0, 1].map(() => {
    const gate = {}
    gate.passed = new Promise(resolve => { gate.open = resolve })
    return gate
  })
  const work = mine => using(driver, session => session.executeWrite(async tx => {
    attempts[mine]++
    const increment = id => tx.run('MATCH (n:Lock {id: $id}) SET n.n = n.n + 1', { id })
    await increment(mine)
    reached[mine].open()
    if (attempts[mine] === 1) await reached[1 - mine].passed
    await increment(1 - mine)
    return 'done'
  }))
  const outcomes = await Promise.all([attempt(() => work(0)), attempt(() => work(1))])
  return [outcomes, attempts[0] + attempts[1] > 2,
    await context.direct('MATCH (n:Lock) WITH n ORDER BY n.id RETURN n.n AS n')]
}

// The driver itself refuses filters on a version of Bolt that has none; the first asks for none.
scenarios.notification_filters = async context => {
  const asked = (options, sessionOptions) => attempt(() => using(
    context.driver('neo4j', undefined, options), async session => {
      const { summary } = await session.run('MATCH (n:NoSuchLabel), (m) RETURN n.no')
      return [summary.notifications.map(note => note.code),
        summary.gqlStatusObjects?.map(status => status.gqlStatus)]
    }, sessionOptions))
  return [await asked(), await asked({ notificationFilter: { minimumSeverityLevel: 'OFF' } }),
    await asked({ notificationFilter: { disabledCategories: ['UNRECOGNIZED'] } }),
    await asked({}, { notificationFilter: { minimumSeverityLevel: 'WARNING' } })]
}

scenarios.summaries = context => using(context.driver(), async session => {
  const told = []
  for (const query of ['CREATE (n:Told {x: 1})-[:R]->() RETURN n', 'EXPLAIN MATCH (n) RETURN n',
    'PROFILE MATCH (n) RETURN count(n)', 'MATCH (n:Told) SET n.x = 2',
    'MATCH (n:NoSuchLabel) RETURN n', 'MATCH (n:Told) DETACH DELETE n']) {
    const { summary } = await session.run(query)
    told.push([summary.queryType, summary.database.name, summary.plan && summary.plan.operatorType,
      summary.profile && summary.profile.rows, summary.counters.updates(),
      summary.notifications.map(note => note.code), summary.server.agent])
  }
  return told
})

scenarios.bookmark_of_the_future = async context => {
  const driver = context.driver('neo4j', undefined, { maxTransactionRetryTime: 0 })
  const [mark] = await using(driver, async session => {
    await session.run('CREATE (:Marked)')
    return bookmarksOf(session)
  })
  return [mark.startsWith('FB:'), await attempt(() => using(driver,
    // No base64 has that mark; whether letters spoil a bookmark depends on the bookmark's length.
    session => one(session, 'RETURN 1'), { bookmarks: [mark + '!'] }))]
}

scenarios.expired_password = async context => {
  const [first, second] = ['firstpass', 'secondpass']
  const admin = query => using(context.observer, session => session.run(query), SYSTEM)
  await admin(`CREATE OR REPLACE USER bob SET PASSWORD '${first}'`)
  const ask = password => attempt(() => using(context.driver('bob', password),
    session => one(session, 'RETURN 1')))
  const outcomes = [await ask(first)]
  outcomes.push(await attempt(() => using(context.driver('bob', first), async session => {
    await session.run('ALTER CURRENT USER SET PASSWORD FROM $first TO $second', { first, second })
    return 'changed'
  }, SYSTEM)))
  outcomes.push(await ask(second), await ask(first))
  await admin('DROP USER bob')
  return outcomes
}

scenarios.vectors = context => using(context.driver(), async session => {
  const queries = ['vector([1, 2, 3], 3, INTEGER8)', 'vector([1.5, -2], 2, FLOAT32)',
    'vector([1, 2], 2, INTEGER64)', '[vector([0.25], 1, FLOAT64)]']
  const outcomes = []
  for (const text of queries) {
    outcomes.push(await attempt(async () => {
      const { records, summary } = await session.run(`CYPHER 25 RETURN ${text} AS v`)
      return [JSON.stringify(records[0].get('v')), String(records[0].get('v')),
        summary.gqlStatusObjects.map(status => status.gqlStatus)]
    }))
  }
  const given = neo4j.vector(Float32Array.from([1, 2.5, -3]))
  outcomes.push(await attempt(async () => String(await one(session, 'RETURN $given', { given }))))
  return outcomes
})

const SYSTEM = { database: 'system' }

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
