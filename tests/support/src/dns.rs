//! A scripted resolver: it returns one address or several, rotates between them, or is silent.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;

use crate::tasks::AbortOnDrop;

/// Longest question that is read.
const QUESTION_MAX_BYTES: usize = 512;
/// An address (RFC 1035, 3.2.2).
const TYPE_A: [u8; 2] = [0, 1];

/// A running resolver.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Mutex<Shared>>,
    _serving: AbortOnDrop,
}

#[derive(Debug, Default)]
struct Shared {
    /// What each name is answered with, in turn.
    names: HashMap<String, Vec<Vec<Ipv4Addr>>>,
    asked: HashMap<String, usize>,
    is_silent: bool,
    /// Names that end so get no response.
    silent_suffix: Option<String>,
}

impl Dns {
    /// Answers on port 53 of `ip`.
    ///
    /// # Panics
    ///
    /// Where the port cannot be had.
    pub async fn start(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(ip), 53))
            .await
            .expect("port 53 of an address of the test's own");
        let shared = Arc::new(Mutex::new(Shared::default()));
        let serving = tokio::spawn(serve(socket, Arc::clone(&shared)));
        Self {
            shared,
            _serving: AbortOnDrop(serving),
        }
    }

    /// This name has this address.
    pub fn set(&self, name: &str, address: Ipv4Addr) {
        self.set_in_turn(name, &[&[address]]);
    }

    /// This name is answered with the first of these, then with the next, and from the beginning again.
    pub fn set_in_turn(&self, name: &str, answers: &[&[Ipv4Addr]]) {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        self.shared().names.insert(name.to_owned(), answers);
    }

    /// From now on it answers nothing, or answers again.
    pub fn silence(&self, is_silent: bool) {
        self.shared().is_silent = is_silent;
    }

    /// From now on it answers nothing about names that end so.
    pub fn silence_below(&self, suffix: &str) {
        self.shared().silent_suffix = Some(suffix.to_owned());
    }

    /// How often the address of this name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.shared().asked.get(name).copied().unwrap_or_default()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(socket: UdpSocket, shared: Arc<Mutex<Shared>>) {
    let mut question = [0; QUESTION_MAX_BYTES];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        let answer = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.answer(&question[..length])
        };
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

impl Shared {
    /// The whole message (RFC 1035, 4). `None` where the resolver is silent.
    fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (name, kind, question) = question(message)?;
        let is_silent = |suffix: &String| name.ends_with(suffix.as_str());
        if self.is_silent || self.silent_suffix.as_ref().is_some_and(is_silent) {
            return None;
        }
        let mut addresses = &Vec::new();
        if let Some(answers) = self.names.get(&name)
            && kind == TYPE_A
        {
            let asked = self.asked.entry(name.clone()).or_default();
            addresses = &answers[*asked % answers.len()];
            *asked += 1;
        }
        // Recursion was desired and is available; a name that is not known does not exist.
        let code = if self.names.contains_key(&name) { 0 } else { 3 };
        let count = u8::try_from(addresses.len()).ok()?;
        let mut out = message[..2].to_vec();
        out.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        out.extend(question);
        for address in addresses {
            // The name of the question, an address, class IN, no time to live, four bytes.
            out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            out.extend(address.octets());
        }
        Some(out)
    }
}

/// The first question: its name, its type, its bytes.
fn question(message: &[u8]) -> Option<(String, [u8; 2], &[u8])> {
    let rest = message.get(12..)?;
    let (mut labels, mut at) = (Vec::new(), 0);
    loop {
        let length = usize::from(*rest.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(rest.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = [*rest.get(at)?, *rest.get(at + 1)?];
    Some((labels.join("."), kind, rest.get(..at + 4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: u8) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(b"\x02ci\x04test\x00");
        message.extend([0, kind, 0, 1]);
        message
    }

    #[test]
    fn dns_answers_rotate_and_unknown_is_nxdomain() {
        let mut shared = Shared::default();
        assert_eq!(shared.answer(&ask(1)).expect("an answer")[3], 0x83);
        let addresses = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let in_turn = addresses.map(|address| vec![address]).to_vec();
        shared.names.insert("ci.test".into(), in_turn);
        for address in addresses {
            let answer = shared.answer(&ask(1)).expect("an answer");
            assert_eq!((answer[0], answer[3], answer[7]), (7, 0x80, 1));
            assert!(answer.ends_with(&address.octets()));
        }
        // It has no address of version 6.
        assert_eq!(shared.answer(&ask(28)).expect("an answer")[7], 0);
        shared.is_silent = true;
        assert!(shared.answer(&ask(1)).is_none());
    }
}
