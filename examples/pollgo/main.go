// Command pollgo keeps the messages of an inbox in PostgreSQL, each once.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// page is the answer of GET /messages:poll.
type page struct {
	Messages []struct {
		ID          string
		MessageID   string
		Data        []byte // base64 in JSON
		Truncated   bool
		Quarantined struct{ Reason string }
	}
	Next string
}

func main() {
	ctx := context.Background()
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	for _, table := range []string{
		"CREATE TABLE IF NOT EXISTS effects (message TEXT, data BYTEA)",
		"CREATE TABLE IF NOT EXISTS progress (consumer TEXT PRIMARY KEY, token TEXT NOT NULL)",
	} {
		if _, err := db.ExecContext(ctx, table); err != nil {
			log.Fatal(err)
		}
	}
	for {
		if err := next(ctx, db); err != nil {
			fmt.Println(err) // the inbox or the database is being restarted, or the network is away
			time.Sleep(time.Second)
		}
	}
}

// next processes the messages after the token, and stores the new token, in one
// transaction.
func next(ctx context.Context, db *sql.DB) error {
	var after string
	err := db.QueryRowContext(ctx, "SELECT token FROM progress WHERE consumer = 'pollgo'").Scan(&after)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	p, err := poll(ctx, after)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	for _, m := range p.Messages {
		if _, err := tx.ExecContext(ctx, "INSERT INTO effects VALUES ($1, $2)", m.ID, m.Data); err != nil {
			return err
		}
	}
	// WHERE has a second process that read the same token change no row.
	result, err := tx.ExecContext(ctx, `INSERT INTO progress VALUES ('pollgo', $1)
		ON CONFLICT (consumer) DO UPDATE SET token = EXCLUDED.token WHERE progress.token = $2`, p.Next, after)
	if err != nil {
		return err
	}
	if rows, err := result.RowsAffected(); err != nil {
		return err
	} else if rows != 1 {
		return errors.New("another process has moved the token")
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, m := range p.Messages {
		fmt.Println("processed", m.MessageID)
	}
	return nil
}

// poll returns the messages after a token. It waits up to 25 seconds for the first.
func poll(ctx context.Context, after string) (p page, err error) {
	query := url.Values{"after": {after}, "wait": {"25s"}, "source": {"pubsub"}}
	b, err := get(ctx, "/messages:poll?"+query.Encode())
	if errors.Is(err, errNotFound) { // this is no inbox
		log.Fatal(err)
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, err
	}
	messages := p.Messages[:0]
	for _, m := range p.Messages {
		if m.Quarantined.Reason != "" { // its data are a push that could not be decoded
			fmt.Println("skipped", m.MessageID, "quarantined:", m.Quarantined.Reason)
			continue
		}
		if m.Truncated { // a page has the first 4 KiB
			m.Data, err = get(ctx, "/messages/"+m.ID+"/data")
			if errors.Is(err, errNotFound) {
				fmt.Println("skipped", m.MessageID, "expired")
				continue
			}
			if err != nil {
				return p, err
			}
		}
		messages = append(messages, m)
	}
	p.Messages = messages
	return p, nil
}

var errNotFound = errors.New("not found")

// get returns what the inbox answers. It ends the program where asking again cannot help.
func get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("INBOX_URL")+path, nil)
	if err != nil {
		return nil, err
	}
	if token := os.Getenv("INBOX_TOKEN"); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.1000s", resp.Status, b)
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("%w: %.1000s", errNotFound, b)
		}
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			log.Fatal(err)
		}
	}
	return b, err
}
