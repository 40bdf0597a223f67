//! Hands every event through as it is.

use sluice_sdk::{Event, Outputs, Result, consumer};

/// Hands an event through.
///
/// # Errors
/// None of its own.
pub fn pass_through(event: &Event, out: &mut Outputs) -> Result {
    out.forward(event)
}

consumer!(pass_through);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::pass_through;

    #[test]
    fn events_come_out_as_they_went_in() {
        let given = Given::value("v").key("k").timestamp(5).header("h", "1").header("h", "");
        let outcome = Tester::function(pass_through).process(&[given, Given::value("")]);
        let sent = &outcome.sent[0];
        assert_eq!((sent.key.as_deref(), &sent.value[..], sent.timestamp), (Some(&b"k"[..]), &b"v"[..], 5));
        assert_eq!(sent.headers, [("h".to_owned(), b"1".to_vec()), ("h".to_owned(), Vec::new())]);
        assert_eq!((outcome.sent[1].key.as_deref(), outcome.sent[1].headers.len()), (None, 0));
    }
}
