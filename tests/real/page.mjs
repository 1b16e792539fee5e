// A headless Chromium with one page, and the folder whose files that page is made of.
//
// Owns the browser, its HTTP or HTTPS server on localhost, and ends both.

import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createEncryptedServer } from 'node:https'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'

export const HERE = dirname(fileURLToPath(import.meta.url))
export const CACHE = join(HERE, '..', '..', '.cache')
const PLAYWRIGHT = join(CACHE, 'playwright-1.65.1')
const CERTIFICATES = join(CACHE, 'certificates')
const CHROMIUM = '/usr/bin/chromium'
// It keeps to this machine, and believes the tests' own certificate authority.
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--ignore-certificate-errors']
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript',
  '.css': 'text/css', '.svg': 'image/svg+xml', '.json': 'application/json' }

// The options of the command line: --uri URI and so on.
export function optionsOf (words) {
  return Object.fromEntries(words.flatMap(
    (word, index) => (word.startsWith('--') ? [[word.slice(2), words[index + 1]]] : [])))
}

// Whether a page for this URI has to come over HTTPS, as pages do that speak TLS to their server.
export const isEncrypted = uri => uri.split('://')[0].includes('+')

// Calls work(page, address) with files served from `folder`; `extra` maps paths to other files.
export async function withPage (folder, extra, encrypted, work) {
  const answer = async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname))
    const file = extra[path] ?? join(folder, path === '/' ? 'index.html' : path)
    try {
      const content = await readFile(file)
      response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream' })
      response.end(content)
    } catch {
      response.writeHead(404).end()
    }
  }
  const certificate = () => ({ cert: readFileSync(join(CERTIFICATES, 'boltmux.crt')),
    key: readFileSync(join(CERTIFICATES, 'boltmux.key')) })
  const server = encrypted ? createEncryptedServer(certificate(), answer) : createServer(answer)
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { chromium } = createRequire(PLAYWRIGHT + '/')('playwright-core')
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS })
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } })
    page.on('pageerror', error => console.error('page:', error.message))
    await work(page, `http${encrypted ? 's' : ''}://localhost:${server.address().port}/`)
  } finally {
    await browser.close()
    server.close()
    server.closeAllConnections()
  }
}
