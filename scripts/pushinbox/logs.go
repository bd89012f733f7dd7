package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newLogs() *cobra.Command {
	format := "classic"
	cmd := &cobra.Command{
		Use:   "logs [FILE...]",
		Short: "Print the log of the function mns as Alibaba's sample endpoint does",
		Long: `Print the log of the function mns as Alibaba's sample endpoint does: for each
request a line of its access log, and for each notification that was stored an
entry of its endpoint log. Times are UTC.

The log is read from standard input or from files: as the function writes it, one JSON
object a line, or as "gcloud logging read --format=json" prints it. Lines that are neither
a request nor a notification are left out.

The bodies of messages are not in the log, so Message is always "-"; they are in the inbox.
A secret in a path is printed as ***.`,
		Example: `  pushinbox logs .local/mns.log
  gcloud logging read 'resource.labels.service_name="mns"' --order=asc --format=json | pushinbox logs
  pushinbox logs --format json .local/mns.log | jq .notification.messageId`,
		RunE: func(cmd *cobra.Command, files []string) error {
			write := writeClassic
			if wantsJSON(cmd) {
				write = writeJSON
			}
			if len(files) == 0 {
				return readLog(os.Stdin, cmd.OutOrStdout(), write)
			}
			for _, file := range files {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				err = readLog(f, cmd.OutOrStdout(), write)
				_ = f.Close() // was only read
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			}
			return nil
		},
	}
	oneOf(cmd.Flags(), &format, "format", "how to print: classic, or json for the entries as they are", "classic", "json")
	return cmd
}

// logEntry is what is read of a line that the function mns wrote.
type logEntry struct {
	Time         time.Time        `json:"time"`
	Access       *logAccess       `json:"access"`
	Notification *logNotification `json:"notification"`
	HTTPRequest  struct {
		RequestMethod string `json:"requestMethod"`
		RequestURL    string `json:"requestUrl"`
		Status        int    `json:"status"`
		UserAgent     string `json:"userAgent"`
	} `json:"httpRequest"`

	// Cloud Logging moves some of it out, and the rest in here.
	Timestamp   time.Time `json:"timestamp"`
	JSONPayload *logEntry `json:"jsonPayload"`
}

type logAccess struct {
	Protocol  string   `json:"protocol"`
	Length    *float64 `json:"length"`
	Host      string   `json:"host"`
	RequestID string   `json:"requestId"`
	Version   string   `json:"version"`
}

type logNotification struct {
	TopicOwner       string    `json:"topicOwner"`
	TopicName        string    `json:"topicName"`
	SubscriptionName string    `json:"subscriptionName"`
	Subscriber       string    `json:"subscriber"`
	MessageID        string    `json:"messageId"`
	MessageMD5       string    `json:"messageMd5"`
	MessageTag       string    `json:"messageTag"`
	PublishTime      time.Time `json:"publishTime"`
}

// maxLogLine is the longest line that is read, in bytes.
const maxLogLine = 16 << 20

// readLog writes the entries of the function mns in the order in which they come.
func readLog(in io.Reader, out io.Writer, write func(io.Writer, json.RawMessage, logEntry) error) error {
	one := func(raw json.RawMessage) error {
		var e logEntry
		if json.Unmarshal(raw, &e) != nil {
			return nil // something else wrote it
		}
		if p := e.JSONPayload; p != nil {
			e.Time, e.Access, e.Notification = e.Timestamp, p.Access, p.Notification
		}
		if e.Access == nil && e.Notification == nil {
			return nil
		}
		return write(out, raw, e)
	}
	buffered := bufio.NewReader(in)
	if isArray(buffered) {
		var entries []json.RawMessage
		if err := json.NewDecoder(buffered).Decode(&entries); err != nil {
			return fmt.Errorf("this is not a list of log entries: %w", err)
		}
		for _, raw := range entries {
			if err := one(raw); err != nil {
				return err
			}
		}
		return nil
	}
	lines := bufio.NewScanner(buffered)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		if err := one(lines.Bytes()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// isArray reports whether a JSON array comes, and skips the space before it.
func isArray(r *bufio.Reader) bool {
	for {
		b, err := r.Peek(1)
		if err != nil || !strings.ContainsRune(" \t\r\n", rune(b[0])) {
			return err == nil && b[0] == '['
		}
		_, _ = r.Discard(1) // was peeked at
	}
}

// writeJSON writes an entry as it is, in one line.
func writeJSON(out io.Writer, raw json.RawMessage, _ logEntry) error {
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s\n", visibleJSON(line.Bytes()))
	return err
}

// writeClassic writes an entry as the sample endpoint of Alibaba's SDK would.
func writeClassic(out io.Writer, _ json.RawMessage, e logEntry) error {
	var b strings.Builder
	if n := e.Notification; n != nil {
		// The file and the thread are the sample's own.
		fmt.Fprintf(&b, "[%s] [root] [INFO] [mns:0] [0] Notify Message Succeed!\n", e.Time.UTC().Format(time.DateTime))
		published := "-"
		if !n.PublishTime.IsZero() {
			published = strconv.FormatInt(n.PublishTime.UnixMilli(), 10)
		}
		for _, field := range [...][2]string{
			{"MessageMD5", n.MessageMD5}, {"TopicOwner", n.TopicOwner}, {"PublishTime", published},
			{"Subscriber", n.Subscriber}, {"MessageTag", n.MessageTag}, {"SubscriptionName", n.SubscriptionName},
			{"MessageId", n.MessageID}, {"Message", "-"}, {"TopicName", n.TopicName},
		} {
			fmt.Fprintf(&b, "%-30s: %s\n", field[0], printable(field[1]))
		}
	}
	if a := e.Access; a != nil {
		length := ""
		if a.Length != nil {
			length = strconv.FormatFloat(*a.Length, 'f', 0, 64)
		}
		fields := []string{
			e.HTTPRequest.RequestMethod, strconv.Itoa(e.HTTPRequest.Status), e.HTTPRequest.RequestURL, a.Protocol,
			length, a.Host, e.HTTPRequest.UserAgent, a.RequestID, a.Version,
		}
		for i, f := range fields {
			if f == "" {
				f = "-"
			}
			fields[i] = `"` + printable(f) + `"`
		}
		fmt.Fprintf(&b, "[%s]%s\n", e.Time.UTC().Format("02/Jan/2006 15:04:05"), strings.Join(fields, " "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printable returns the beginning of s, without the characters by which a value
// from a sender could look like more of the log, or move a terminal's cursor.
func printable(s string) string {
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "..." // the cut may be inside a character
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case hidden(r):
			return '?'
		}
		return r
	}, s)
}
