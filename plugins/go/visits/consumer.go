// Counts visits under each key until nothing has come for a second.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"sluicegate.dev/sluice"
)

var (
	counts = sluice.Named("visits")
	idle   = []byte("idle")
	third  = []byte("third")
)

type visits struct{}

func init() { sluice.Export(visits{}) }

func main() {}

func count(key []byte) uint64 {
	count, _ := strconv.ParseUint(string(counts.Get(key)), 10, 64)
	return count
}

func (visits) Wants(event *sluice.Event, wanted *sluice.Wanted) {
	if event.Key != nil {
		wanted.Key(counts, event.Key)
	}
}

func (visits) Process(event *sluice.Event, out *sluice.Outputs) (err error) {
	if event.Key == nil {
		return errors.New("the event has no key")
	}
	before := count(event.Key)
	if prefix, asked := bytes.CutPrefix(event.Value, []byte("who ")); asked {
		counts.Scan(prefix, func(key, value []byte) bool {
			err = out.Send(key, value)
			return err == nil
		})
		return err
	}
	if string(event.Value) == "bye" {
		counts.Delete(event.Key)
		sluice.ClearTimer(event.Key, idle)
		sluice.ClearTimer(event.Key, third)
		return out.Send(event.Key, fmt.Appendf(nil, "bye %d", before))
	}
	counts.Set(event.Key, fmt.Append(nil, before+1))
	sluice.SetTimer(sluice.EventTime, event.Timestamp+1000, event.Key, idle)
	if (before+1)%3 == 0 {
		sluice.SetTimer(sluice.EventTime, event.Timestamp+500, event.Key, third)
	}
	// All of it is undone.
	if string(event.Value) == "bad" {
		return errors.New("a bad visit")
	}
	return nil
}

func (visits) Fire(timer *sluice.Timer, out *sluice.Outputs) error {
	count := count(timer.Key)
	if bytes.Equal(timer.Tag, idle) {
		counts.Delete(timer.Key)
	}
	return out.Send(timer.Key, fmt.Appendf(nil, "%s %d at %d", timer.Tag, count, timer.Time))
}

func (visits) StateVersion() uint32 { return 1 }

// Migrate brings over version 0, which kept them under `visit`, and those that had left as 0.
func (visits) Migrate(_ uint32, entry sluice.Entry) ([]sluice.Entry, error) {
	count, err := strconv.ParseUint(string(entry.Value), 10, 64)
	if err != nil || count == 0 {
		return nil, err
	}
	entry.Key = append([]byte("visits"), bytes.TrimPrefix(entry.Key, []byte("visit"))...)
	return []sluice.Entry{entry}, nil
}
