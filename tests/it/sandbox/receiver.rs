//! The other end: a receiver that does as it is told, and checks every signature with a few lines of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::TcpListener;

/// A receiver that writes down what it gets and answers as it is told to.
pub struct Receiver {
    pub url: String,
    told: Arc<Told>,
}

#[derive(Default)]
pub struct Told {
    /// Answers in order; 200 when there are no more; 0 to never answer.
    answers: Mutex<VecDeque<u16>>,
    got: Mutex<Vec<(HeaderMap, Bytes)>>,
}

async fn receive(State(told): State<Arc<Told>>, headers: HeaderMap, body: Bytes) -> Response {
    told.got.lock().unwrap().push((headers, body));
    let answer = told.answers.lock().unwrap().pop_front().unwrap_or(200);
    if answer == 0 {
        std::future::pending::<()>().await;
    }
    let status = StatusCode::from_u16(answer).unwrap();
    (status, [("location", "/elsewhere")]).into_response()
}

impl Receiver {
    pub async fn start(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let told = Arc::new(Told::default());
        told.answers.lock().unwrap().extend(answers);
        let router = Router::new().fallback(receive).with_state(told.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiver { url, told }
    }

    pub fn answer(&self, answers: &[u16]) {
        *self.told.answers.lock().unwrap() = answers.iter().copied().collect();
    }

    /// The bodies so far, each proved to be signed with `secret`.
    pub fn bodies(&self, secret: &str) -> Vec<String> {
        let got = self.told.got.lock().unwrap();
        got.iter()
            .map(|(headers, body)| {
                assert_eq!(headers["x-webhook-signature"], signed(secret, body));
                assert_eq!(headers["content-type"], "application/json");
                String::from_utf8(body.to_vec()).unwrap()
            })
            .collect()
    }

    /// How many signatures each delivery had.
    pub fn signatures(&self) -> Vec<usize> {
        let got = self.told.got.lock().unwrap();
        got.iter()
            .map(|(headers, _)| headers.get_all("x-webhook-signature").iter().count())
            .collect()
    }

    pub fn count(&self) -> usize {
        self.told.got.lock().unwrap().len()
    }
}

pub fn signed(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!(
        "sha256={}",
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    )
}
