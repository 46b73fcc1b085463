//! The Ed25519 keys that sign tokens: made on first need, replaced with age, held in memory.

use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use uuid::Uuid;

use crate::config::Config;
use crate::domain::auth::{Jwk, JwkSet};
use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::service::App;
use crate::store::{self, signing_keys::SigningKey};

/// How long keys are used without a look at the database: so long may a key live on that was removed there by hand.
const TRUST: TimeDelta = TimeDelta::seconds(60);
/// A token with an unknown key id makes us look at most this often.
const LOOK: TimeDelta = TimeDelta::seconds(1);
/// A key's successor is made this long before the key retires, so that every process, and whoever checks our tokens by the
/// JWKS document, knows it before its first signature.
const LEAD: TimeDelta = TimeDelta::hours(1);
/// What comes before the 32 random bytes of a key: PKCS #8 for Ed25519 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];

/// One key, ready for use.
pub struct Key {
    pub kid: String,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
    public: Vec<u8>,
    /// Signs until then, and verifies for the longest life of a token after it.
    retires_at: Time,
}

/// Newest first.
#[derive(Default)]
struct Ring {
    keys: Vec<Arc<Key>>,
    read_at: Option<Time>,
}

#[derive(Default)]
pub struct Keys {
    ring: RwLock<Ring>,
    /// One look at the database at a time.
    looking: tokio::sync::Mutex<()>,
}

impl Keys {
    /// The key that signs now.
    pub async fn signing(&self, app: &App) -> Result<Arc<Key>> {
        let now = app.clock.now();
        // The one that retires first: its successor may not be known everywhere yet.
        let signs = |keys: &[Arc<Key>]| {
            let live = keys.iter().filter(|key| key.retires_at > now);
            live.min_by_key(|key| key.retires_at).cloned()
        };
        if let Some(key) = self.held(now, TRUST, signs) {
            return Ok(key);
        }
        self.look(app, TimeDelta::zero()).await?;
        self.held(now, TimeDelta::MAX, signs)
            .ok_or_else(|| Error::Internal(anyhow::anyhow!("there is no key to sign with")))
    }

    /// The key of this id, if there is such a one and it still verifies.
    pub async fn verifying(&self, app: &App, kid: &str) -> Result<Option<Arc<Key>>> {
        let now = app.clock.now();
        let verifies = |keys: &[Arc<Key>]| {
            let fits = |key: &&Arc<Key>| key.kid == kid && key.retires_at + ttl(&app.config) > now;
            keys.iter().find(fits).cloned()
        };
        if let Some(key) = self.held(now, TRUST, verifies) {
            return Ok(Some(key));
        }
        self.look(app, LOOK).await?;
        Ok(self.held(now, TimeDelta::MAX, verifies))
    }

    /// All keys that verify, for those who check our tokens themselves.
    pub async fn public(&self, app: &App) -> Result<JwkSet> {
        self.signing(app).await?;
        let now = app.clock.now();
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let live = ring.keys.iter().filter(|key| key.retires_at + ttl(&app.config) > now);
        Ok(JwkSet { keys: live.map(|key| key.jwk()).collect() })
    }

    /// The next use looks at the database.
    pub fn forget(&self) {
        self.ring.write().unwrap_or_else(PoisonError::into_inner).read_at = None;
    }

    fn held(
        &self,
        now: Time,
        trust: TimeDelta,
        choose: impl Fn(&[Arc<Key>]) -> Option<Arc<Key>>,
    ) -> Option<Arc<Key>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        if ring.read_at.is_none_or(|at| (now - at).abs() >= trust) {
            return None;
        }
        choose(&ring.keys)
    }

    /// Reads the keys, unless that was done less than `pause` ago; makes one where it is time.
    async fn look(&self, app: &App, pause: TimeDelta) -> Result<()> {
        let _one = self.looking.lock().await;
        let now = app.clock.now();
        let read_at = self.ring.read().unwrap_or_else(PoisonError::into_inner).read_at;
        if read_at.is_some_and(|at| (now - at).abs() < pause) {
            return Ok(());
        }
        let rows = rotate(app).await?;
        let keys = rows.into_iter().map(|row| Arc::new(Key::from(row))).collect();
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) =
            Ring { keys, read_at: Some(now) };
        Ok(())
    }
}

/// Makes a key where none will sign for long enough, removes those whose last token has ended, and gives the others, newest
/// first.
pub async fn rotate(app: &App) -> Result<Vec<SigningKey>> {
    let now = app.clock.now();
    let ended = now - ttl(&app.config);
    let enough = |rows: &[SigningKey]| rows.iter().any(|row| row.retires_at > now + LEAD);
    let rows = store::signing_keys::list(&mut *app.conn().await?).await?;
    if enough(&rows) && rows.iter().all(|row| row.retires_at >= ended) {
        return Ok(rows);
    }
    let mut tx = store::begin(&app.db).await?;
    store::signing_keys::lock(&mut tx).await?;
    store::signing_keys::forget(&mut tx, ended).await?;
    let mut rows = store::signing_keys::list(&mut tx).await?;
    // Another process may have made one while this one waited for the lock.
    if !enough(&rows) {
        // It begins where the last one ends.
        let begins = rows.iter().map(|row| row.retires_at).max().map_or(now, |last| last.max(now));
        let row = generate(now, begins + delta(app.config.key_rotation))?;
        store::signing_keys::insert(&mut tx, &row).await?;
        rows.insert(0, row);
    }
    tx.commit().await?;
    Ok(rows)
}

/// Makes a new key. The others sign until every process knows it, or, with `revoke`, are gone at once.
pub async fn replace(app: &App, conn: &mut sqlx::PgConnection, revoke: bool) -> Result<()> {
    let now = app.clock.now();
    store::signing_keys::lock(conn).await?;
    let begins = if revoke {
        store::signing_keys::remove_all(conn).await?;
        now
    } else {
        let known = now + TRUST * 2;
        store::signing_keys::retire_all(conn, known).await?;
        known
    };
    let row = generate(now, begins + delta(app.config.key_rotation))?;
    store::signing_keys::insert(conn, &row).await
}

fn generate(now: Time, retires_at: Time) -> Result<SigningKey> {
    let seed: [u8; 32] = rand::random();
    let private_key = [PKCS8_HEAD.as_slice(), &seed].concat();
    let encoding = EncodingKey::from_ed_der(&private_key);
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&encoding, Algorithm::EdDSA)
        .map_err(Error::internal)?;
    let public = DecodingKey::from_jwk(&jwk).map_err(Error::internal)?;
    let public_key = public.try_get_as_bytes().map_err(Error::internal)?.to_vec();
    let kid = Uuid::now_v7().simple().to_string();
    Ok(SigningKey { kid, private_key, public_key, created_at: now, retires_at })
}

impl From<SigningKey> for Key {
    fn from(row: SigningKey) -> Self {
        Self {
            kid: row.kid,
            encoding: EncodingKey::from_ed_der(&row.private_key),
            decoding: DecodingKey::from_ed_der(&row.public_key),
            public: row.public_key,
            retires_at: row.retires_at,
        }
    }
}

impl Key {
    fn jwk(&self) -> Jwk {
        Jwk {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            r#use: "sig".into(),
            alg: "EdDSA".into(),
            kid: self.kid.clone(),
            x: URL_SAFE_NO_PAD.encode(&self.public),
        }
    }
}

fn ttl(config: &Config) -> TimeDelta {
    delta(config.token_ttl)
}

/// Settings are bounded far below what a `TimeDelta` holds.
fn delta(duration: std::time::Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
