//! From the server to the client: details as they come, summaries when they are whole.

use super::*;

impl Exchange {
    /// The server's next bytes. `Err`: it sent what Bolt forbids, and is of no more use.
    pub fn server_bytes(
        &mut self,
        input: &[u8],
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) -> Result<(), Discard> {
        let mut at = 0;
        if let Some(first) = self.loose[1].take()
            && let Some(&second) = input.first()
        {
            let header = [first, second];
            at = 1;
            if let Some(span) = self.down.next(&header)
                && matches!(span.kind, Kind::Message { .. })
            {
                self.arriving = Arriving::Undecided;
                self.stash.extend_from_slice(&header);
            }
        }
        while at < input.len() && self.session.is_leased() {
            let arriving = &mut self.arriving;
            let each = |piece: &[u8]| {
                if let Arriving::Long(scan) = arriving {
                    let _ = scan.feed(piece); // what cannot be read says nothing
                }
            };
            let Some(span) = self.down.next_with(&input[at..], each) else {
                self.loose[1] = Some(input[at]);
                break;
            };
            let range = at..at + span.length;
            at = range.end;
            match span.kind {
                Kind::Noop if self.session.planted.has(Bug::NoopAsMessage) => {
                    self.summary_there(IGNORED, &input[at..], cx, fx, None)
                }
                Kind::Noop => {}
                Kind::Message { starts, ends } => {
                    self.reply_span(input, range, (starts, ends), cx, fx)?
                }
            }
        }
        self.after(cx, fx);
        Ok(())
    }

    fn reply_span(
        &mut self,
        input: &[u8],
        range: Range<usize>,
        (starts, ends): (bool, bool),
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) -> Result<(), Discard> {
        if starts {
            self.arriving = Arriving::Undecided;
        }
        let rest = &input[range.end..];
        match &self.arriving {
            Arriving::Undecided => return self.undecided_reply(input, range, ends, cx, fx),
            Arriving::Detail => {
                let lost = usize::from(self.session.planted.has(Bug::OffByOne));
                fx.to_client(range.start..range.end - lost);
                self.session.spoke(cx.now);
                if ends {
                    self.session.detail_ended();
                }
            }
            Arriving::Long(scan) => {
                fx.to_client(range);
                let fields = ends.then(|| scan.finish());
                if let (Some(head), Some(fields)) = (self.down.head(), fields) {
                    let reply = Reply { head, payload: None, fields: Some(fields) };
                    self.session.summary(reply, cx);
                    self.settle(rest, fx);
                }
            }
        }
        Ok(())
    }

    /// The first bytes of a server's message, until it is known what it is.
    fn undecided_reply(
        &mut self,
        input: &[u8],
        range: Range<usize>,
        ends: bool,
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) -> Result<(), Discard> {
        let rest = &input[range.end..];
        let Some(head) = self.down.head() else {
            self.stash.extend_from_slice(&input[range]);
            return if ends { Err(Discard::Protocol) } else { Ok(()) };
        };
        if !self.session.expects(head) {
            return Err(Discard::Protocol);
        }
        if head.tag == tag::RECORD {
            if self.session.needs_whole_record() {
                self.table_record(input, range, ends, cx, fx);
                return Ok(());
            }
            self.flush_stash(fx);
            fx.to_client(range);
            self.session.spoke(cx.now);
            if !ends {
                self.arriving = Arriving::Detail;
                self.session.reply_begun();
            }
            return Ok(());
        }
        if ends && self.stash.is_empty() {
            let relayed = Some(range.clone());
            self.summary_there(&input[range], rest, cx, fx, relayed);
            return Ok(());
        }
        self.stash.extend_from_slice(&input[range]);
        if ends {
            let whole = mem::take(&mut self.stash);
            self.summary_there(&whole, rest, cx, fx, None);
        } else if self.stash.len() > SUMMARY_HELD_MAX {
            if self.session.needs_whole(head) {
                return Err(Discard::Protocol); // nothing that is answered here is that long
            }
            let mut scan = Box::new(FieldScan::new(head.tag));
            let _ = Scanner::default().next_with(&self.stash, |piece| {
                let _ = scan.feed(piece);
            });
            self.arriving = Arriving::Long(scan);
            self.session.reply_begun();
            self.flush_stash(fx);
        }
        Ok(())
    }

    /// A piece of a record that may hold a routing table. One too long for that goes on as it is.
    fn table_record(
        &mut self,
        input: &[u8],
        range: Range<usize>,
        ends: bool,
        cx: Context<'_>,
        fx: &mut impl Effects,
    ) {
        self.stash.extend_from_slice(&input[range]);
        if ends {
            let whole = mem::take(&mut self.stash);
            let mut scratch = Vec::new();
            let table = self.session.table_record(chunk::payload(&whole, &mut scratch), cx);
            fx.to_client_copied(table.unwrap_or_else(|| whole.into()));
        } else if self.stash.len() > SUMMARY_HELD_MAX {
            self.flush_stash(fx);
            self.arriving = Arriving::Detail;
            self.session.reply_begun();
        }
    }

    fn flush_stash(&mut self, fx: &mut impl Effects) {
        if !self.stash.is_empty() {
            fx.to_client_copied(mem::take(&mut self.stash).into());
        }
    }

    /// A whole summary. `range` says where it lies in the input, if it lies there.
    fn summary_there(
        &mut self,
        message: &[u8],
        rest: &[u8],
        cx: Context<'_>,
        fx: &mut impl Effects,
        range: Option<Range<usize>>,
    ) {
        let mut scratch = Vec::new();
        let payload = chunk::payload(message, &mut scratch);
        let [first, second, ..] = *payload else { return };
        let head = chunk::Head::of([first, second]);
        let reply = Reply { head, payload: Some(payload), fields: None };
        match (self.session.summary(reply, cx), range) {
            (Relay::Forward, Some(range)) => fx.to_client(range),
            (Relay::Forward, None) => fx.to_client_copied(Bytes::copy_from_slice(message)),
            (Relay::Replace(bytes), _) => fx.to_client_copied(bytes),
            (Relay::Swallow, _) => {}
        }
        self.settle(rest, fx);
    }

    fn settle(&mut self, rest: &[u8], fx: &mut impl Effects) {
        self.arriving = Arriving::Undecided;
        self.session.settle();
        self.run_actions(fx, rest);
    }
}
