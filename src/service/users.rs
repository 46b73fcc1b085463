//! Users: made, changed and removed by admins; everybody changes their own password.

use serde_json::json;
use uuid::Uuid;

use super::auth::Origin;
use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin, Write};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::UserId;
use crate::domain::page::Page;
use crate::domain::password::Password;
use crate::domain::user::{NewUser, PasswordChange, User, UserPatch};
use crate::store;
use crate::store::users::Change;

pub async fn create(app: &App, caller: &Caller, new: &NewUser) -> Result<User> {
    authorize(caller, "create_user")?;
    let name = new.check()?;
    // Before the transaction, which would wait for it.
    let hash = app.auth().passwords.hash(&new.password).await?;
    // The password is no part of what is kept for the key: a fast hash of it would lie in the database.
    let mut write = match app.begin(caller, "create_user", &(&new.name, new.admin)).await? {
        Begin::Replay(user) => return same_password(app, user, &new.password).await,
        Begin::Fresh(write) => write,
    };
    let (id, now) = (UserId(Uuid::now_v7()), write.now);
    let user = store::users::insert(write.conn(), id, &name, &hash, new.admin, now).await?;
    write.done("user.create", subject(&user), json!({ "admin": user.admin })).await?;
    write.commit(&user).await?;
    Ok(user)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
) -> Result<(Vec<User>, Option<String>)> {
    authorize(caller, "list_users")?;
    let rows = store::users::list(&mut *app.conn().await?, page, name).await?;
    Ok(page.cut(rows, |user| user.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: UserId) -> Result<User> {
    authorize(caller, "get_user")?;
    let user = store::users::get(&mut *app.conn().await?, id).await?;
    user.ok_or_else(|| Error::not_found("user", id))
}

pub async fn update(
    app: &App,
    caller: &Caller,
    id: UserId,
    patch: &UserPatch,
    if_match: Option<i64>,
) -> Result<User> {
    authorize(caller, "update_user")?;
    patch.check()?;
    let password_hash = match &patch.password {
        Some(password) => Some(app.auth().passwords.hash(password).await?),
        None => None,
    };
    let input = (id, patch.enabled, patch.admin, patch.password.is_some());
    let mut write = match app.begin(caller, "update_user", &input).await? {
        Begin::Replay(user) => match &patch.password {
            Some(password) => return same_password(app, user, password).await,
            None => return Ok(user),
        },
        Begin::Fresh(write) => write,
    };
    let before = locked(&mut write, id, if_match).await?;
    if before.admin
        && before.enabled
        && (patch.enabled == Some(false) || patch.admin == Some(false))
    {
        not_the_last_admin(&mut write, id).await?;
    }
    let changed = |wish: Option<bool>, is: bool| wish.is_some_and(|wish| wish != is);
    let end_logins = password_hash.is_some()
        || changed(patch.enabled, before.enabled)
        || changed(patch.admin, before.admin);
    let change = Change { enabled: patch.enabled, admin: patch.admin, password_hash, end_logins };
    let now = write.now;
    let user = store::users::update(write.conn(), id, &change, now).await?;
    let detail = json!({
        "enabled": patch.enabled, "admin": patch.admin, "password": patch.password.is_some().then_some("changed"),
    });
    write.done("user.update", subject(&user), detail).await?;
    write.commit(&user).await?;
    app.auth().forget_user(id);
    Ok(user)
}

pub async fn delete(app: &App, caller: &Caller, id: UserId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_user")?;
    let mut write = match app.begin(caller, "delete_user", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let user = locked(&mut write, id, if_match).await?;
    if user.admin && user.enabled {
        not_the_last_admin(&mut write, id).await?;
    }
    store::users::delete(write.conn(), id).await?;
    write.done("user.delete", subject(&user), json!({})).await?;
    write.commit(&()).await?;
    app.auth().forget_user(id);
    Ok(())
}

/// The caller's own password. Ends every login of the caller, this one too; API tokens stay, and are revoked one by one.
pub async fn change_password(
    app: &App,
    caller: &Caller,
    change: &PasswordChange,
    origin: &Origin,
) -> Result<()> {
    authorize(caller, "change_password")?;
    change.check()?;
    // Whoever found a token must not try passwords with it without end.
    app.auth().limits.attempt(&caller.user_name, origin.address)?;
    let kept = store::users::password_hash(&mut *app.conn().await?, caller.user).await?;
    if !app.auth().passwords.verify(&change.old_password, kept).await? {
        return Err(Error::field("/old_password", "is not your password"));
    }
    let hash = app.auth().passwords.hash(&change.new_password).await?;
    // No replay: after the first time the old password is wrong, which says that it has been done.
    let once = Caller { idempotency_key: None, ..caller.clone() };
    let Begin::Fresh(mut write) = app.begin::<()>(&once, "change_password", &()).await? else {
        return Ok(());
    };
    let user = locked(&mut write, caller.user, None).await?;
    let change = Change { password_hash: Some(hash), end_logins: true, ..Change::default() };
    let now = write.now;
    store::users::update(write.conn(), user.id, &change, now).await?;
    write.done("user.change_password", subject(&user), json!({})).await?;
    write.commit(&()).await?;
    app.auth().forget_user(user.id);
    Ok(())
}

async fn locked(write: &mut Write, id: UserId, if_match: Option<i64>) -> Result<User> {
    // All admins before the one user, in one order for everybody: no two changes wait for each other.
    store::users::lock_admins(write.conn()).await?;
    let user = store::users::lock(write.conn(), id).await?;
    let user = user.ok_or_else(|| Error::not_found("user", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, user.revision))?;
    Ok(user)
}

async fn not_the_last_admin(write: &mut Write, id: UserId) -> Result<()> {
    let admins = store::users::lock_admins(write.conn()).await?;
    if admins.iter().any(|admin| *admin != id) {
        return Ok(());
    }
    let detail = "this is the last enabled admin: make another one first";
    Err(Error::conflict("last-admin", detail))
}

/// A repeated request is the same request only if it has the same password.
async fn same_password(app: &App, user: User, password: &Password) -> Result<User> {
    let kept = store::users::password_hash(&mut *app.conn().await?, user.id).await?;
    if app.auth().passwords.verify(password, kept).await? {
        return Ok(user);
    }
    Err(Error::conflict(
        "idempotency-key-reused",
        "this Idempotency-Key was used with another password, or the password was changed since: use a new key",
    ))
}

fn subject(user: &User) -> Subject {
    Subject { kind: "user", id: user.id.0, name: user.name.to_string(), tenant: None }
}
