// Runs the scenarios of scenarios.mjs under Node.
//
// Usage: node node.mjs DRIVER_FOLDER --uri URI --direct URI [--only NAMES] [--server NAME]

import { createRequire } from 'node:module'

import { runAll } from './scenarios.mjs'

const [folder, ...rest] = process.argv.slice(2)
const require = createRequire(folder + '/')
const given = Object.fromEntries(
  rest.flatMap((word, index) => (word.startsWith('--') ? [[word.slice(2), rest[index + 1]]] : [])))
const driver = require('neo4j-driver/package.json').version
await runAll(require('neo4j-driver'), { server: 'neo4j-5.26', ...given, driver },
  line => process.stdout.write(line + '\n'))
// What is written to a pipe is not there yet when the call returns.
process.stdout.write('', () => process.exit(0))
