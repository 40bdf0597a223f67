package sluice

import (
	"encoding/binary"
	"math"
	"sort"
	"unsafe"
)

// The contract, `guest-sdk/wit`, by hand. What events, outcomes and headers look like as bytes is told in `runtime/event`.

//go:wasmimport sluicegate:plugin/log@1.1.0 write
func hostLog(level int32, text unsafe.Pointer, length uint32)

//go:wasmimport sluicegate:plugin/progress@1.1.0 watch
func hostWatch(cell unsafe.Pointer, length uint32)

//go:wasmimport sluicegate:plugin/state@1.1.0 get-flat
func hostGetFlat(keys unsafe.Pointer, length uint32, result unsafe.Pointer)

//go:wasmimport sluicegate:plugin/state@1.1.0 scan
func hostScan(prefix unsafe.Pointer, length uint32, hasAfter uint32, after unsafe.Pointer, afterLength uint32, limit uint32, maxBytes uint32, result unsafe.Pointer)

var (
	consumer Consumer
	inHand   uint32
	call     state
	outputs  Outputs
	wanted   Wanted
	// Bytes that the host writes to, until the call is over.
	lent map[uintptr][]byte = map[uintptr][]byte{}
	// An address and a length: what the host hands back, and what is returned.
	list [3]uint32
	told []byte
)

// Export says what the plugin consists of; to be called from `init`, once.
func Export(c Consumer) { consumer = c }

var le = binary.LittleEndian

func logLine(level Level, line string) {
	hostLog(int32(level), unsafe.Pointer(unsafe.StringData(line)), uint32(len(line)))
}

//go:wasmexport cabi_realloc
func realloc(old unsafe.Pointer, oldLength, align, length uint32) unsafe.Pointer {
	if length == 0 {
		return unsafe.Pointer(uintptr(8))
	}
	// Of eights, so that it is aligned.
	words := make([]uint64, (length+7)/8)
	at := unsafe.Pointer(&words[0])
	lent[uintptr(at)] = unsafe.Slice((*byte)(at), length)
	return at
}

func bytesAt(at, length uint32) []byte {
	if length == 0 {
		return []byte{}
	}
	return lent[uintptr(at)][:length]
}

const fixed = 64

type slot struct {
	value   []byte
	expires int64
	known   bool
	changed bool
	timer   bool
	index   uint32
}

type undo struct {
	key    string
	before slot
}

// The call in hand.
type state struct {
	header, due, watermarks []byte
	count                   uint32
	chained                 bool
	topic                   string
	partition               uint32
	base                    uint64
	ofTimer                 bool
	index                   uint32
	now, watermark          int64
	rest                    []byte
	out, failures, timers   []byte
	outCount, failureCount  uint32
	timerCount              uint32
	sinks                   []string
	slots                   map[string]*slot
	order                   []string
	undone                  []undo
	wanted                  []string
	changedTimers           map[string]bool
}

func (s *state) sink(name string) uint32 {
	if name == "" {
		return 0
	}
	for at, other := range s.sinks {
		if other == name {
			return uint32(at + 1)
		}
	}
	s.sinks = append(s.sinks, name)
	return uint32(len(s.sinks))
}

func pad(out []byte) []byte {
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

func (s *state) put(output *Output) error {
	start := len(s.out)
	flags, timestamp := uint16(2), s.now
	if output.Key != nil {
		flags |= 1
	}
	if output.Timestamp != nil {
		timestamp = *output.Timestamp
	}
	source := uint32(0)
	if s.ofTimer {
		source = 1
	}
	out := s.out
	out = le.AppendUint32(out, 0)
	out = le.AppendUint16(out, flags)
	out = le.AppendUint16(out, uint16(len(output.Headers)))
	out = le.AppendUint64(out, uint64(timestamp))
	out = le.AppendUint32(out, uint32(len(output.Key)))
	out = le.AppendUint32(out, uint32(len(output.Value)))
	out = le.AppendUint32(out, s.sink(output.Sink))
	out = le.AppendUint32(out, 0)
	out = le.AppendUint64(out, uint64(s.index))
	out = le.AppendUint32(out, 0)
	out = le.AppendUint32(out, source)
	for _, header := range output.Headers {
		out = le.AppendUint32(out, uint32(len(header.Name)))
		out = le.AppendUint32(out, uint32(len(header.Value)))
	}
	out = append(append(out, output.Key...), output.Value...)
	for _, header := range output.Headers {
		out = append(append(out, header.Name...), header.Value...)
	}
	s.out = pad(out)
	le.PutUint32(s.out[start:], uint32(len(s.out)-start))
	s.outCount++
	return nil
}

func (s *state) want(key string) {
	found := s.slots[key]
	if found == nil {
		found = &slot{}
		s.slots[key] = found
		s.order = append(s.order, key)
	}
	if !found.known && !found.changed {
		found.known = true
		s.wanted = append(s.wanted, key)
	}
}

// Fetches a value, with those that the rest of the batch wants.
func (s *state) fetch(key string) {
	s.wanted = s.wanted[:0]
	s.want(key)
	if wants, ok := consumer.(Wanting); ok {
		rest, first := s.rest, s.count-countOf(s.rest)
		for number := first; len(rest) > 0; number++ {
			wants.Wants(s.event(rest, number), &wanted)
			rest = rest[le.Uint32(rest):]
		}
	}
	var keys []byte
	for _, key := range s.wanted {
		keys = append(le.AppendUint32(keys, uint32(len(key))), key...)
	}
	hostGetFlat(unsafe.Pointer(&keys[0]), uint32(len(keys)), unsafe.Pointer(&list))
	found := bytesAt(list[0], list[1])
	delete(lent, uintptr(list[0]))
	for _, key := range s.wanted {
		length := le.Uint32(found)
		found = found[4:]
		if length == math.MaxUint32 {
			continue
		}
		own := s.slots[key]
		own.expires, own.value = int64(le.Uint64(found)), found[8:8+length]
		found = found[8+length:]
	}
}

func countOf(region []byte) (count uint32) {
	for ; len(region) > 0; count++ {
		region = region[le.Uint32(region):]
	}
	return
}

func (s *state) isGone(expires int64) bool {
	return expires != 0 && s.watermark != math.MinInt64 && expires <= s.watermark
}

func (s *state) get(key string) []byte {
	found := s.slots[key]
	if found == nil || !(found.known || found.changed) {
		s.fetch(key)
		found = s.slots[key]
	}
	if s.isGone(found.expires) {
		return nil
	}
	return found.value
}

func (s *state) change(key string, value []byte, expires int64) {
	found := s.slots[key]
	if found == nil {
		found = &slot{}
		s.slots[key] = found
		s.order = append(s.order, key)
	}
	s.undone = append(s.undone, undo{key, *found})
	*found = slot{value: value, expires: expires, known: found.known, changed: true, timer: s.ofTimer, index: s.index}
}

func (s *state) scan(prefix string, visit func(key string, value []byte) bool) {
	var own []string
	for key, found := range s.slots {
		if found.changed && len(key) >= len(prefix) && key[:len(prefix)] == prefix {
			own = append(own, key)
		}
	}
	sort.Strings(own)
	before := func(limit string, all bool) bool {
		for len(own) > 0 && (all || own[0] < limit) {
			found := s.slots[own[0]]
			if found.value != nil && !s.isGone(found.expires) && !visit(own[0], found.value) {
				return false
			}
			own = own[1:]
		}
		return true
	}
	after, hasAfter := "", uint32(0)
	for {
		hostScan(unsafe.Pointer(unsafe.StringData(prefix)), uint32(len(prefix)), hasAfter, unsafe.Pointer(unsafe.StringData(after)), uint32(len(after)), 1000, 1<<20, unsafe.Pointer(&list))
		entries := entriesAt(list[0], list[1])
		if len(entries) == 0 {
			before("", true)
			return
		}
		for _, entry := range entries {
			key := string(entry.Key)
			if !before(key, false) {
				return
			}
			value, expires := entry.Value, entry.Expires
			if len(own) > 0 && own[0] == key {
				value, expires, own = s.slots[key].value, s.slots[key].expires, own[1:]
			}
			if value != nil && !s.isGone(expires) && !visit(key, value) {
				return
			}
			after, hasAfter = key, 1
		}
	}
}

// Entries as the host hands them over: per entry key, value, a flag and a time.
func entriesAt(at, count uint32) []Entry {
	entries := make([]Entry, count)
	if count == 0 {
		return entries
	}
	records := lent[uintptr(at)]
	for number := range entries {
		record := records[32*number:]
		key, value := le.Uint32(record), le.Uint32(record[8:])
		entries[number].Key, entries[number].Value = bytesAt(key, le.Uint32(record[4:])), bytesAt(value, le.Uint32(record[12:]))
		if record[16] != 0 {
			entries[number].Expires = int64(le.Uint64(record[24:]))
		}
		delete(lent, uintptr(key))
		delete(lent, uintptr(value))
	}
	delete(lent, uintptr(at))
	return entries
}

func timerId(key, tag []byte) string {
	return string(append(append(le.AppendUint32(nil, uint32(len(key))), key...), tag...))
}

func (s *state) changeTimer(set bool, clock Clock, time int64, key, tag []byte) {
	start := len(s.timers)
	record := make([]byte, 32, 40+len(key)+len(tag))
	if set {
		record[4], record[6] = 1, byte(clock)
		le.PutUint64(record[24:], uint64(time))
	}
	if s.ofTimer {
		record[5] = 1
	}
	le.PutUint32(record[8:], s.index)
	le.PutUint32(record[12:], uint32(len(key)))
	le.PutUint32(record[16:], uint32(len(tag)))
	s.timers = pad(append(append(append(s.timers, record...), key...), tag...))
	le.PutUint32(s.timers[start:], uint32(len(s.timers)-start))
	s.timerCount++
	s.changedTimers[timerId(key, tag)] = true
}

func (s *state) event(at []byte, index uint32) *Event {
	flags, headers := le.Uint16(at[4:]), int(le.Uint16(at[6:]))
	keyLength, valueLength := le.Uint32(at[16:]), le.Uint32(at[20:])
	event := &Event{Topic: s.topic, Partition: s.partition, Offset: s.base + uint64(index), Timestamp: int64(le.Uint64(at[8:]))}
	rest := at[24:]
	if flags&2 != 0 {
		if s.chained {
			event.Offset = le.Uint64(rest[8:])
		}
		rest = rest[24:]
	}
	table := rest[:8*headers]
	rest = rest[8*headers:]
	if flags&1 != 0 {
		event.Key = rest[:keyLength:keyLength]
	}
	event.Value = rest[keyLength : keyLength+valueLength : keyLength+valueLength]
	rest = rest[keyLength+valueLength:]
	if headers > 0 {
		event.Headers = make([]Header, headers)
	}
	for number := range event.Headers {
		name, value := le.Uint32(table[8*number:]), le.Uint32(table[8*number+4:])
		event.Headers[number] = Header{string(rest[:name]), rest[name : name+value : name+value]}
		rest = rest[name+value:]
	}
	return event
}

// Deals with one; whether the call goes on behind it.
func (s *state) deal(event *Event, timer *Timer) bool {
	out, outCount, timers, timerCount := len(s.out), s.outCount, len(s.timers), s.timerCount
	s.undone = s.undone[:0]
	inHand = s.index
	var err error
	if event != nil {
		err = consumer.Process(event, &outputs)
	} else {
		inHand |= 1 << 31
		if fires, ok := consumer.(Firing); ok {
			err = fires.Fire(timer, &outputs)
		} else {
			err = errNoFire
		}
	}
	if err == nil {
		return true
	}
	s.out, s.outCount, s.timers, s.timerCount = s.out[:out], outCount, s.timers[:timers], timerCount
	for at := len(s.undone) - 1; at >= 0; at-- {
		*s.slots[s.undone[at].key] = s.undone[at].before
	}
	start, reason := len(s.failures), err.Error()
	record := make([]byte, 16)
	if s.ofTimer {
		record[4] = 1
	}
	if !isTransient(err) {
		record[5] = 1
	}
	le.PutUint32(record[8:], s.index)
	le.PutUint32(record[12:], uint32(len(reason)))
	s.failures = pad(append(append(s.failures, record...), reason...))
	le.PutUint32(s.failures[start:], uint32(len(s.failures)-start))
	s.failureCount++
	return !isTransient(err)
}

type text string

func (t text) Error() string { return string(t) }

const errNoFire = text("a timer fired, and the consumer has no Fire")

//go:wasmexport sluicegate:plugin/batch@1.1.0#process
func process(headerAt, headerLength, eventsAt, eventsLength uint32) unsafe.Pointer {
	header, region := bytesAt(headerAt, headerLength), bytesAt(eventsAt, eventsLength)
	s := &call
	nameLength := le.Uint32(header[56:])
	due := header[fixed+(nameLength+7)&^7:]
	dueCount, dueLength := le.Uint32(header[12:]), le.Uint32(header[16:])
	out, failures, timers := s.out[:0], s.failures[:0], s.timers[:0]
	*s = state{
		header: header, count: le.Uint32(header[8:]), chained: le.Uint32(header[20:])&1 != 0,
		topic: string(header[fixed : fixed+nameLength]), partition: le.Uint32(header[52:]), base: le.Uint64(header[24:]),
		out: append(out, make([]byte, fixed)...), failures: failures, timers: timers,
		slots: map[string]*slot{}, changedTimers: map[string]bool{}, order: s.order[:0], undone: s.undone[:0], wanted: s.wanted[:0],
	}
	if le.Uint32(header[20:])&2 != 0 {
		s.watermarks = due[dueLength:]
	}
	processed, fired, goesOn := uint32(0), uint32(0), true
	for goesOn && (processed < s.count || fired < dueCount) {
		s.watermark = int64(le.Uint64(header[32:]))
		if s.watermarks != nil {
			s.watermark = int64(le.Uint64(s.watermarks[8*processed:]))
		}
		s.rest = region
		switch {
		case fired < dueCount && le.Uint32(due[16:]) <= processed:
			key, tag := le.Uint32(due[24:]), le.Uint32(due[28:])
			timer := &Timer{Clock(due[4]), int64(le.Uint64(due[8:])), due[32 : 32+key], due[32+key : 32+key+tag]}
			s.ofTimer, s.index, s.now = true, fired, timer.Time
			// Cleared in this call, or set anew: it is as good as fired.
			if !s.changedTimers[timerId(timer.Key, timer.Tag)] {
				goesOn = s.deal(nil, timer)
			}
			due = due[le.Uint32(due):]
			if goesOn {
				fired++
			}
		case processed < s.count:
			event := s.event(region, processed)
			s.ofTimer, s.index, s.now = false, processed, event.Timestamp
			goesOn = s.deal(event, nil)
			region = region[le.Uint32(region):]
			if goesOn {
				processed++
			}
		default:
			goesOn = false
		}
	}
	outputsLength := len(s.out) - fixed
	var sinks, states []byte
	for _, name := range s.sinks {
		sinks = append(le.AppendUint32(sinks, uint32(len(name))), name...)
	}
	stateCount := uint32(0)
	for _, key := range s.order {
		found := s.slots[key]
		if !found.changed {
			continue
		}
		start := len(states)
		record := make([]byte, 32)
		if found.value != nil {
			record[4] = 1
			le.PutUint64(record[24:], uint64(found.expires))
		}
		if found.timer {
			record[5] = 1
		}
		le.PutUint32(record[8:], found.index)
		le.PutUint32(record[12:], uint32(len(key)))
		le.PutUint32(record[16:], uint32(len(found.value)))
		states = pad(append(append(append(states, record...), key...), found.value...))
		le.PutUint32(states[start:], uint32(len(states)-start))
		stateCount++
	}
	words := []uint32{processed, fired, s.outCount, uint32(outputsLength), uint32(len(s.sinks)), uint32(len(sinks)),
		s.failureCount, uint32(len(s.failures)), stateCount, uint32(len(states)), s.timerCount, uint32(len(s.timers))}
	copy(s.out, "SLGO\x01\x00\x40\x00")
	for number, word := range words {
		le.PutUint32(s.out[8+4*number:], word)
	}
	s.out = pad(append(s.out, sinks...))
	s.out = append(append(append(s.out, s.failures...), states...), s.timers...)
	clear(lent)
	list[0], list[1] = uint32(uintptr(unsafe.Pointer(&s.out[0]))), uint32(len(s.out))
	return unsafe.Pointer(&list)
}

// What is returned where something may have failed.
func answer(err error) unsafe.Pointer {
	clear(lent)
	list = [3]uint32{}
	if err != nil {
		told = []byte(err.Error() + " ")
		list = [3]uint32{1, uint32(uintptr(unsafe.Pointer(&told[0]))), uint32(len(told) - 1)}
	}
	return unsafe.Pointer(&list)
}

//go:wasmexport sluicegate:plugin/lifecycle@1.1.0#init
func initialize(at, length uint32) unsafe.Pointer {
	hostWatch(unsafe.Pointer(&inHand), 4)
	config := append([]byte{}, bytesAt(at, length)...)
	if configured, ok := consumer.(Configured); ok {
		return answer(configured.Init(config))
	}
	if string(config) != "{}" {
		return answer(text("config: this consumer takes none"))
	}
	return answer(nil)
}

//go:wasmexport sluicegate:plugin/versioned-state@1.1.0#version
func version() uint32 {
	if versioned, ok := consumer.(Versioned); ok {
		return versioned.StateVersion()
	}
	return 0
}

var (
	migrated []Entry
	records  []byte
)

//go:wasmexport sluicegate:plugin/versioned-state@1.1.0#migrate
func migrate(from, at, count uint32) unsafe.Pointer {
	versioned, ok := consumer.(Versioned)
	if !ok {
		return answer(text("the consumer has no Migrate"))
	}
	call = state{slots: map[string]*slot{}, watermark: math.MinInt64}
	migrated = migrated[:0]
	for _, entry := range entriesAt(at, count) {
		entries, err := versioned.Migrate(from, entry)
		if err != nil {
			return answer(err)
		}
		migrated = append(migrated, entries...)
	}
	records = make([]byte, 32*len(migrated)+8)
	address := func(bytes []byte) uint32 {
		if len(bytes) == 0 {
			return 8
		}
		return uint32(uintptr(unsafe.Pointer(&bytes[0])))
	}
	for number, entry := range migrated {
		record := records[32*number:]
		le.PutUint32(record, address(entry.Key))
		le.PutUint32(record[4:], uint32(len(entry.Key)))
		le.PutUint32(record[8:], address(entry.Value))
		le.PutUint32(record[12:], uint32(len(entry.Value)))
		if entry.Expires != 0 {
			record[16] = 1
			le.PutUint64(record[24:], uint64(entry.Expires))
		}
	}
	clear(lent)
	list = [3]uint32{0, uint32(uintptr(unsafe.Pointer(&records[0]))), uint32(len(migrated))}
	return unsafe.Pointer(&list)
}
