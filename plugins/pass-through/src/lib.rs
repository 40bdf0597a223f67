//! Hands every event through as it is.

use sluice_sdk::{Event, Outputs, Result, consumer};

/// Hands an event through.
///
/// # Errors
/// None of its own.
pub fn pass_through(event: &Event, out: &mut Outputs) -> Result {
    let mut output = out.output().key(event.key());
    for (name, value) in event.headers() {
        output = output.header(name, value);
    }
    output.send(event.value())
}

consumer!(pass_through);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::pass_through;

    #[test]
    fn events_come_out_as_they_went_in() {
        let outcome = Tester::function(pass_through).process(&[Given::value("v").key("k").timestamp(5)]);
        let sent = &outcome.sent[0];
        assert_eq!((sent.key.as_deref(), &sent.value[..], sent.timestamp), (Some(&b"k"[..]), &b"v"[..], 5));
    }
}
