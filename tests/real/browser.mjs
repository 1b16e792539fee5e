// Neo4j Browser's own files in Chromium: somebody logs in, runs queries and looks at the answers.
//
// Usage: node browser.mjs --uri URI --direct URI [--only NAMES] [--server NAME]
//                         [--picture FILE.png]
//
// The application is served on localhost and connects to `uri` over WebSocket. It offers TLS, and
// then nothing else, only where it came over HTTPS itself: so it is served as its URI asks for.

import { join } from 'node:path'

import { CACHE, isEncrypted, optionsOf, withPage } from './page.mjs'

const given = optionsOf(process.argv.slice(2))
const APPLICATION = join(CACHE, 'neo4j-browser-5.24.0', 'browser')
const LIMIT_MS = 60_000 // It is ready in 3 s; a busy machine may need many times that.
const scenarios = {}

async function logIn (page, address, password) {
  await page.goto(address)
  const url = page.locator('[data-testid="boltaddress"]')
  await url.waitFor({ timeout: LIMIT_MS })
  await url.fill(given.uri)
  // It takes the scheme out of what is typed, and silently keeps another if it does not offer it.
  const scheme = await page.locator('[data-testid="bolt-scheme-select"]').inputValue()
  if (!given.uri.startsWith(scheme)) throw new Error(`${scheme} is selected, not ${given.uri}`)
  await page.locator('[data-testid="username"]').fill('neo4j')
  await page.locator('[data-testid="password"]').fill(password)
  await page.locator('[data-testid="connect"]').click()
}

async function ask (page, query) {
  await page.locator('.monaco-editor').first().click()
  await page.keyboard.type(query)
  await page.keyboard.press('Control+Enter')
}

const textOf = page => page.locator('body').innerText()

async function until (page, text) {
  await page.getByText(text).first().waitFor({ timeout: LIMIT_MS })
  return text
}

scenarios.everyday_use = async (page, address) => {
  await logIn(page, address, 'secretpass')
  const outcomes = [await until(page, 'You are connected as user')]
  await ask(page, 'CREATE (n:Seen {name: "here it is"}) RETURN n.name, 40 + 2 AS sum')
  outcomes.push(await until(page, 'here it is'))
  await ask(page, 'RETRUN 1')
  outcomes.push(await until(page, 'Neo.ClientError.Statement.SyntaxError'))
  await ask(page, 'UNWIND range(1, 3000) AS row RETURN row, "text " + row AS text')
  outcomes.push(await until(page, 'text 17'))
  if (given.picture) await page.screenshot({ path: given.picture })
  return outcomes
}

scenarios.login_refused = async (page, address) => {
  await logIn(page, address, 'wrongpass')
  return [await until(page, 'Neo.ClientError.Security.Unauthorized')]
}

const wanted = (given.only ?? '').split(',').filter(name => name)
for (const [name, work] of Object.entries(scenarios)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  const started = performance.now()
  let outcome
  await withPage(APPLICATION, {}, isEncrypted(given.uri), async (page, address) => {
    try {
      outcome = await work(page, address)
    } catch (error) {
      outcome = { failed: error.message.split('\n')[0] }
      console.error(error.message, '\n', await textOf(page).catch(() => ''))
      if (given.picture) await page.screenshot({ path: given.picture })
    }
  })
  const line = { name, outcome, seconds: (performance.now() - started) / 1000 }
  process.stdout.write(JSON.stringify(line) + '\n')
}
process.stdout.write('', () => process.exit(0))
