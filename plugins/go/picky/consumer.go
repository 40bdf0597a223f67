// Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals.
package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"sluicegate.dev/sluice"
)

func init() { sluice.Export(sluice.Func(process)) }

func main() {}

func process(event *sluice.Event, out *sluice.Outputs) error {
	if !utf8.Valid(event.Value) {
		return errors.New("not UTF-8")
	}
	word, rest, _ := strings.Cut(string(event.Value), " ")
	switch word {
	case "bad":
		return fmt.Errorf("event %d is bad", event.Offset)
	case "down":
		return sluice.Transient(errors.New("what it needs is down"))
	case "panic":
		panic(fmt.Sprintf("event %d makes it panic", event.Offset))
	case "say":
		sluice.Log(sluice.Info, "%s", rest)
	}
	capitals := make([]byte, len(event.Value))
	for at, c := range event.Value {
		if c >= 'a' && c <= 'z' {
			c -= 32
		}
		capitals[at] = c
	}
	return out.Send(event.Key, capitals)
}
