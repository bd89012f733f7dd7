package mnsfake_test

import (
	"net/http/httptest"
	"os/exec"
	"testing"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/testkit/need"
)

// TestNode runs Alibaba's SDK for Node, unmodified, where npm can bring it.
func TestNode(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("npm takes some seconds")
	}
	need.Program(t, "npm")
	dir := t.TempDir()
	npm := exec.CommandContext(t.Context(), "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "@alicloud/mns@1.2.0")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Logf("npm install: %v\n%s", err, out)
		need.Missing(t, "npm cannot get @alicloud/mns: let it reach its registry")
	}
	signer, err := mnsfake.NewSigner(512)
	if err != nil {
		t.Fatal(err)
	}
	s, err := mnsfake.New(signer, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	node := exec.CommandContext(t.Context(), "node", "-e", `
const assert = require('node:assert');
const MNS = require('@alicloud/mns');
(async () => {
  const endpoint = process.argv[1];
  const client = new MNS('1000000000000000', {accessKeyId: 'local', accessKeySecret: 'local', endpoint});
  assert.deepEqual((await client.listTopic()).body, undefined);
  const made = await client.createTopic('T', {MaximumMessageSize: 2048});
  assert.deepEqual([made.code, made.headers.location], [201, endpoint + '/topics/T']);
  assert.equal((await client.createTopic('T', {MaximumMessageSize: 2048})).code, 204);
  await client.createTopic('T2');
  assert.deepEqual((await client.listTopic()).body, [{TopicURL: endpoint + '/topics/T'}, {TopicURL: endpoint + '/topics/T2'}]);
  assert.deepEqual((await client.listTopic('', 1, 'T')).body, [{TopicURL: endpoint + '/topics/T'}]);
  assert.equal((await client.setTopicAttributes('T', {LoggingEnabled: true})).code, 204);
  const {body} = await client.getTopicAttributes('T');
  assert.deepEqual([body.TopicName, body.MaximumMessageSize, body.LoggingEnabled, body.MessageRetentionPeriod], ['T', '2048', 'True', '86400']);
  const published = await client.publishMessage('T', {MessageBody: 'I am test message 0.'});
  assert.equal(published.code, 201);
  assert.equal(published.body.MessageBodyMD5, '075C3D4AEB2D2F2D6A4C17C9D6DBBEBB');
  assert.match(published.body.MessageId, /^[0-9A-F]{16}-1-/);
  await assert.rejects(client.publishMessage('nowhere', {MessageBody: 'x'}), {name: 'MNSTopicNotExistError'});
  await assert.rejects(client.sendMessage('Q', {MessageBody: 'x'}), /has topics and no queues: POST \/queues\/Q\/messages is not there/);
})();`, server.URL)
	node.Dir = dir
	if out, err := node.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
