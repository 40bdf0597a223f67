// Package sluice lets you write Sluicegate consumers in Go.
//
//	func init() { sluice.Export(sluice.Func(shout)) }
//
//	func main() {}
//
//	func shout(event *sluice.Event, out *sluice.Outputs) error {
//		return out.Send(event.Key, bytes.ToUpper(event.Value))
//	}
//
// An error is a failure of that one event: all that it sent, set and changed is undone, and the other events go on. Wrap it with [Transient] where
// trying again may help. A panic ends the instance; its text goes to the log and into the dead letter.
//
// A consumer that is configured, keeps state, or sets timers is a type with more methods: see [Consumer].
package sluice

import (
	"errors"
	"fmt"
)

// Consumer deals with events. It may be a [Configured], a [Firing], a [Wanting] and a [Versioned] as well.
type Consumer interface {
	// Process deals with one event.
	Process(event *Event, out *Outputs) error
}

// Configured is a consumer that takes the stage's `config`, as JSON. Others take none.
type Configured interface {
	Init(config []byte) error
}

// Firing is a consumer that sets timers.
type Firing interface {
	// Fire deals with a timer that is due.
	Fire(timer *Timer, out *Outputs) error
}

// Wanting is a consumer that says what an event will read of the state, so that it is fetched for a whole batch at once.
type Wanting interface {
	Wants(event *Event, wanted *Wanted)
}

// Versioned is a consumer whose state changes its shape from one version to the next.
type Versioned interface {
	StateVersion() uint32
	// Migrate brings over a value of an older version: what it returns stands in its place.
	Migrate(from uint32, entry Entry) ([]Entry, error)
}

// Func is a consumer that is only a function.
type Func func(event *Event, out *Outputs) error

// Process calls the function.
func (f Func) Process(event *Event, out *Outputs) error { return f(event, out) }

// Event is an event as a consumer gets it. Its bytes are valid during the call.
type Event struct {
	Topic     string
	Partition uint32
	Offset    uint64
	// Milliseconds since the epoch, as the producer said.
	Timestamp int64
	// Nil where there is none: absent and empty differ.
	Key     []byte
	Value   []byte
	Headers []Header
}

// Header is one header of an event.
type Header struct {
	Name  string
	Value []byte
}

// Clock says which time a timer goes by.
type Clock uint8

const (
	// EventTime is the partition's watermark: how far its events have come in their own time.
	EventTime Clock = iota
	// WallClock is the time of day.
	WallClock
)

// Timer is a timer that is due.
type Timer struct {
	Clock Clock
	// Milliseconds since the epoch.
	Time int64
	Key  []byte
	Tag  []byte
}

// Output is an event to be sent. What is not set is: the pipeline's first sink, the time of the event or timer in hand, no key, no headers.
type Output struct {
	Sink      string
	Timestamp *int64
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Entry is a value in the state, as it is brought from one version to the next. The key is the whole one, NAME/KEY.
type Entry struct {
	Key   []byte
	Value []byte
	// When it expires, in milliseconds since the epoch; 0 is never.
	Expires int64
}

type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// Transient says that trying again may help. The events behind wait meanwhile.
func Transient(err error) error { return transient{err} }

func isTransient(err error) bool {
	var found transient
	return errors.As(err, &found)
}

// Level is how much a line of the log matters.
type Level int32

// The levels of lines.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
)

// Log writes a line to the node's log.
func Log(level Level, format string, arguments ...any) {
	logLine(level, fmt.Sprintf(format, arguments...))
}

// Outputs takes what a consumer sends.
type Outputs struct{}

// Send sends an event to the pipeline's first sink.
func (*Outputs) Send(key, value []byte) error { return call.put(&Output{Key: key, Value: value}) }

// Put sends an event.
func (*Outputs) Put(output *Output) error { return call.put(output) }

// SetTimer sets a timer, with the capability `timers`; one with the same key and tag is replaced.
func SetTimer(clock Clock, time int64, key, tag []byte) { call.changeTimer(true, clock, time, key, tag) }

// ClearTimer clears one.
func ClearTimer(key, tag []byte) { call.changeTimer(false, EventTime, 0, key, tag) }

// State is keyed state of some name, with the capability `state`: it outlives instances and crashes, and what an event changes is committed with its outputs. It is
// that of this stage and partition.
type State struct{ prefix string }

// Named is the state of this name. A stage may have several.
func Named(name string) State { return State{name + "/"} }

func (s State) full(key []byte) string { return s.prefix + string(key) }

// Get is the value of a key; nil where there is none.
func (s State) Get(key []byte) []byte { return call.get(s.full(key)) }

// Set sets it.
func (s State) Set(key, value []byte) { call.change(s.full(key), append([]byte{}, value...), 0) }

// SetFor sets it until so many milliseconds after the time of the event or timer in hand.
func (s State) SetFor(key, value []byte, millis int64) {
	expires := call.now + millis
	if expires == 0 {
		expires = 1
	}
	call.change(s.full(key), append([]byte{}, value...), expires)
}

// Delete deletes it.
func (s State) Delete(key []byte) { call.change(s.full(key), nil, 0) }

// Scan hands over what is kept under keys that begin with prefix, in their order, until visit has had enough.
func (s State) Scan(prefix []byte, visit func(key, value []byte) bool) {
	call.scan(s.full(prefix), func(key string, value []byte) bool { return visit([]byte(key[len(s.prefix):]), value) })
}

// Wanted takes what an event will read of the state.
type Wanted struct{}

// Key names a key.
func (*Wanted) Key(state State, key []byte) { call.want(state.full(key)) }
