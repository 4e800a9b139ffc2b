// Uses the package thingspeakclient from npm on a server: its folder, URL, channel and write key
// as arguments. Prints what each call returned, one JSON text a line.
const [folder, server, id, writeKey] = process.argv.slice(2);
const Client = require(folder + '/thingspeakclient');
const client = new Client({server, updateTimeout: 100}), channel = Number(id);
const call = (method, ...given) => new Promise((resolve, reject) =>
  client[method](...given, (error, answer) => error ? reject(error) : resolve(answer)));
const say = value => console.log(JSON.stringify(value));

(async () => {
  await call('attachChannel', channel, {writeKey, readKey: writeKey});
  say(await call('updateChannel', channel, {field1: 7, field2: '6'}));
  say(await call('updateChannel', channel, {field1: 8.25, status: 'über 50%'}));
  say(await call('getChannelFeeds', channel, {results: 2}));
  say(await call('getLastEntryInChannelFeed', channel, {status: 'true'}));
  say(await call('getFieldFeed', channel, 2, {}));
  say(await call('getLastEntryInFieldFeed', channel, 2));
  say(await call('getStatusUpdates', channel));
  say((await call('listPublicChannels')).channels.map(one => one.id).includes(channel));
  await call('attachChannel', channel, {writeKey: 'WRONGWRONGWRONG0'});
  say(await call('updateChannel', channel, {field1: 9}));
})().catch(error => { console.error(error); process.exit(1); });
