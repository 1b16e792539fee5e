// Runs the scenarios of scenarios.mjs in a web page: the driver's web bundle speaks over WebSocket.
//
// Usage: node chromium.mjs DRIVER_FOLDER --uri URI --direct URI [--only NAMES] [--server NAME]

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { HERE, optionsOf, withPage } from './page.mjs'

const [folder, ...rest] = process.argv.slice(2)
const driverFolder = join(folder, 'node_modules', 'neo4j-driver')
const { version } = JSON.parse(readFileSync(join(driverFolder, 'package.json')))
const given = { server: 'neo4j-5.26', ...optionsOf(rest), driver: version }
const files = {
  '/driver.js': join(driverFolder, 'lib', 'browser', 'neo4j-web.min.js'),
  '/scenarios.mjs': join(HERE, 'scenarios.mjs'),
  '/': join(HERE, 'page.html')
}

// The page comes over HTTP, also for wss: from HTTPS it could not ask the server without TLS.
await withPage(HERE, files, false, async (page, address) => {
  page.on('console', message => console.error(message.text()))
  await page.exposeFunction('writeLine', line => process.stdout.write(line + '\n'))
  await page.goto(address)
  await page.evaluate(async given => {
    const { runAll } = await import('/scenarios.mjs')
    const lines = []
    await runAll(window.neo4j, given, line => lines.push(window.writeLine(line)))
    await Promise.all(lines)
  }, given)
})
process.stdout.write('', () => process.exit(0))
