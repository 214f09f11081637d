'use strict'
// The handler a user would write by hand: both digests verified, the body parsed, one awaited write.
const { createHash, timingSafeEqual } = require('node:crypto')
const express = require('express')
const { MongoClient } = require('mongodb')

const { MONGODB_URI, BENCH_DATABASE, BENCH_SECRET } = process.env
const hex = (algorithm, ...parts) => {
  const hash = createHash(algorithm)
  for (const part of parts) hash.update(part)
  return hash.digest('hex')
}
const equal = (a, b) => a.length === b.length && timingSafeEqual(Buffer.from(a), Buffer.from(b))

async function main () {
  const client = new MongoClient(MONGODB_URI, {
    maxPoolSize: 64,
    writeConcern: { w: 'majority', journal: true }
  })
  const database = client.db(BENCH_DATABASE)
  const messages = database.collection('messages')
  const logins = database.collection('logins')
  // What receipts update by, and counts are made by; without it each would scan the collection.
  await messages.createIndex({ to: 1, fromAccount: 1, state: 1, msgTimestamp: 1 })

  async function store (event) {
    if (event.eventType === '1') {
      event._id = `otc/p2p/${event.msgidServer}`
      event.msgTimestamp = Number(event.msgTimestamp)
      event.state = 0
      event.receivedAt = new Date()
      return messages.insertOne(event).catch(error => { if (error.code !== 11000) throw error })
    }
    if (event.eventType === '30') {
      const [receipt] = JSON.parse(event.objects)
      return messages.updateMany({
        to: receipt.fromAccount,
        fromAccount: receipt.toAccount,
        state: 0,
        msgTimestamp: { $lte: receipt.timestamp }
      }, { $set: { state: 1 } })
    }
    return logins.insertOne({ accid: event.accid, timestamp: Number(event.timestamp) })
  }

  const app = express()
  app.disable('x-powered-by')
  app.post('/callbacks/otc', express.raw({ type: '*/*', limit: '1mb' }), async (request, response) => {
    const md5 = hex('md5', request.body)
    const checksum = hex('sha1', BENCH_SECRET, md5, request.get('CurTime'))
    if (!equal(md5, request.get('MD5')) || !equal(checksum, request.get('CheckSum'))) {
      return response.sendStatus(403)
    }
    await store(JSON.parse(request.body))
    response.json({ code: 200 })
  })
  app.get('/v1/unread', async (request, response) => {
    const { user, peers } = request.query
    const counts = await messages.aggregate([
      { $match: { to: user, fromAccount: { $in: peers.split(',') }, state: 0 } },
      { $group: { _id: '$fromAccount', n: { $sum: 1 } } }
    ]).toArray()
    response.json(Object.fromEntries(counts.map(({ _id, n }) => [_id, n])))
  })
  const server = app.listen(0, '127.0.0.1', () => {
    console.error(`address=127.0.0.1:${server.address().port}`)
  })
}

main()
