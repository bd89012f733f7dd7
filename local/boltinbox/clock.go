package boltinbox

import (
	"encoding/binary"
	"fmt"
	"time"

	"example.com/pushinbox/local/datadir"
	"go.etcd.io/bbolt"
)

// saveClock writes down that the inbox is in use.
func (in *Inbox) saveClock(tx *bbolt.Tx) error {
	_, believed := in.clock.Read()
	b := binary.BigEndian.AppendUint64(nil, uint64(max(believed.UnixMicro(), 0)))
	return tx.Bucket(bucketFormat).Put(keySeen, datadir.Seal(keySeen, b))
}

// sweep deletes expired messages periodically until the inbox closes.
func (in *Inbox) sweep() {
	ticker := time.NewTicker(max(min(in.ttl/10, time.Minute), time.Millisecond))
	defer ticker.Stop()
	for {
		now, believed := in.clock.Read()
		for more := true; more; {
			select {
			case <-in.closing:
				return
			default:
			}
			// Put reports a failure such as a full disk as well. The next tick
			// repeats the step.
			more, _ = in.sweepStep(believed)
		}
		if now.After(believed) && in.waiting(now) && in.clock.Warn() {
			in.log.Warn(fmt.Sprintf("%s: the clock says %s, %v later than when the inbox was last in use; messages that are past their TTL by it are deleted in an hour, unless the clock is set right",
				in.path, now.Format(time.RFC3339), now.Sub(believed).Round(time.Second)))
		}
		select {
		case <-in.closing:
			return
		case <-ticker.C:
		}
	}
}

// waiting reports whether messages expire at now.
func (in *Inbox) waiting(now time.Time) (any bool) {
	_ = in.guard(func() error {
		return in.db.View(func(tx *bbolt.Tx) error {
			any = len(in.tables(tx).expired(now.Add(-in.ttl), now.Add(maxAhead), 1)) > 0
			return nil
		})
	})
	return any
}

const (
	// sweepKeys is about how many keys one step of the sweep deletes: few enough
	// that a Put hardly waits for it. sweepMessages is for how many messages it
	// looks.
	sweepKeys     = 2000
	sweepMessages = sweepKeys / 5
)

// sweepStep deletes some messages that have expired at now, oldest first, and
// reports whether there may be more.
func (in *Inbox) sweepStep(now time.Time) (more bool, err error) {
	err = in.guard(func() error {
		var expired []order
		if err := in.db.View(func(tx *bbolt.Tx) error {
			expired = in.tables(tx).expired(now.Add(-in.ttl), now.Add(maxAhead), sweepMessages)
			return nil
		}); err != nil || len(expired) == 0 {
			return err
		}
		return in.db.Update(func(tx *bbolt.Tx) error {
			t, keys := in.tables(tx), 0
			for _, at := range expired {
				n, err := t.delete(at)
				if err != nil {
					return err
				}
				if keys += n; keys >= sweepKeys {
					break
				}
			}
			more = true
			return in.saveClock(tx)
		})
	})
	return more && err == nil, err
}
