//! One parameter of a task: what data its argument is, and how the function gets it.
//!
//! The kind is chosen by how the type is written: `&T` borrows, `Arc<T>` shares, a list is put together from its
//! elements, anything else is owned.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{Error, FnArg, GenericArgument, Pat, PathArguments, Result, Type, parse_quote};

/// How a task's function gets an argument.
enum Kind {
    /// `T`
    Owned,
    /// `&T`, `&str`
    Borrowed,
    /// `Arc<T>`
    Shared,
    /// `Vec<T>`
    OwnedList(Type),
    /// `&[T]`
    Slice(Type),
    /// `&Vec<T>`
    BorrowedList(Type),
    /// `Vec<Arc<T>>`
    SharedList(Type),
    /// `&[Arc<T>]`, `&Vec<Arc<T>>`
    BorrowedSharedList(Type),
}

pub(crate) struct Parameter {
    /// What people call it: its name, or its position.
    pub(crate) name: String,
    /// What it is called in `call`.
    pub(crate) ident: Ident,
    /// The type that travels.
    pub(crate) data: Type,
    kind: Kind,
}

impl Parameter {
    pub(crate) fn new(position: usize, argument: &FnArg) -> Result<Self> {
        let argument = match argument {
            FnArg::Typed(argument) => argument,
            FnArg::Receiver(receiver) => {
                return Err(Error::new_spanned(receiver, "a task is a free function: it takes no `self`"));
            }
        };
        let ident = match &*argument.pat {
            Pat::Ident(pattern) => pattern.ident.clone(),
            _ => format_ident!("argument_{}", position + 1),
        };
        let (data, kind) = classify(&argument.ty)?;
        Ok(Self { name: ident.to_string(), ident, data, kind })
    }

    /// An expression for what is taken out of `reader`, and one for what is given to the function once the former is
    /// in the variable `taken`.
    pub(crate) fn take(&self, taken: &Ident, shim: &TokenStream) -> (TokenStream, TokenStream) {
        let (name, data) = (&self.name, &self.data);
        let own = |item: &Type| quote!(|held| (&&#shim::Ownership::<#item>::new()).own(held));
        let list = |item: &Type| quote!(reader.take_list::<#item>(#name)?);
        match &self.kind {
            Kind::Owned => {
                let own = own(data);
                (quote!((#own)(reader.take::<#data>(#name)?)?), quote!(#taken))
            }
            Kind::Borrowed => (quote!(reader.take::<#data>(#name)?), quote!(&*#taken)),
            Kind::Shared => (quote!(reader.take::<#data>(#name)?.share()), quote!(#taken)),
            Kind::OwnedList(item) => {
                let (list, own, own_whole) = (list(item), own(item), own(data));
                (quote!(#shim::own_list(#list, #own, #own_whole)?), quote!(#taken))
            }
            Kind::Slice(item) => {
                let own = own(item);
                (quote!(#shim::slice(reader.take_slice::<#item>(#name)?, #own)?), quote!(&*#taken))
            }
            Kind::BorrowedList(item) => {
                let (list, own) = (list(item), own(item));
                (quote!(#shim::whole(#list, #own)?), quote!(&*#taken))
            }
            Kind::SharedList(item) => {
                let (list, own_whole) = (list(item), own(data));
                (quote!(#shim::share_list(#list, #own_whole)?), quote!(#taken))
            }
            Kind::BorrowedSharedList(item) => {
                let (list, own_whole) = (list(item), own(data));
                (quote!(#shim::share_list(#list, #own_whole)?), quote!(&#taken))
            }
        }
    }
}

fn classify(written: &Type) -> Result<(Type, Kind)> {
    match written {
        Type::Reference(reference) => {
            if reference.mutability.is_some() {
                return Err(Error::new_spanned(
                    written,
                    "a task cannot change its argument in place: take it by value and return the changed one",
                ));
            }
            if let Some(lifetime) = &reference.lifetime {
                return Err(Error::new_spanned(
                    lifetime,
                    "a task borrows while it runs: leave out the lifetime",
                ));
            }
            classify_borrowed(&reference.elem)
        }
        Type::ImplTrait(_) => Err(Error::new_spanned(
            written,
            "a task's parameter has a concrete type: the worker must know what to unpack",
        )),
        owned => {
            if let Some(item) = sole_argument(owned, "Arc") {
                return Ok((item.clone(), Kind::Shared));
            }
            if let Some(item) = sole_argument(owned, "Vec") {
                return Ok(match sole_argument(item, "Arc") {
                    Some(shared) => {
                        (parse_quote!(::std::vec::Vec<#shared>), Kind::SharedList(shared.clone()))
                    }
                    None => (owned.clone(), Kind::OwnedList(item.clone())),
                });
            }
            Ok((owned.clone(), Kind::Owned))
        }
    }
}

fn classify_borrowed(referent: &Type) -> Result<(Type, Kind)> {
    let list_item = match referent {
        Type::Slice(slice) => Some(&*slice.elem),
        other => sole_argument(other, "Vec"),
    };
    if let Some(item) = list_item {
        return Ok(match sole_argument(item, "Arc") {
            Some(shared) => {
                (parse_quote!(::std::vec::Vec<#shared>), Kind::BorrowedSharedList(shared.clone()))
            }
            None => {
                let kind = match referent {
                    Type::Slice(_) => Kind::Slice(item.clone()),
                    _ => Kind::BorrowedList(item.clone()),
                };
                (parse_quote!(::std::vec::Vec<#item>), kind)
            }
        });
    }
    if let Type::Path(path) = referent
        && path.qself.is_none()
        && path.path.is_ident("str")
    {
        return Ok((parse_quote!(::std::string::String), Kind::Borrowed));
    }
    if let Type::ImplTrait(_) | Type::TraitObject(_) = referent {
        return Err(Error::new_spanned(
            referent,
            "a task's parameter has a concrete type: the worker must know what to unpack",
        ));
    }
    Ok((referent.clone(), Kind::Borrowed))
}

/// `T` of `name<T>`, whatever path leads to `name`.
pub(crate) fn sole_argument<'t>(written: &'t Type, name: &str) -> Option<&'t Type> {
    match arguments(written, name)?.as_slice() {
        [argument] => Some(argument),
        _ => None,
    }
}

/// The type arguments of `name<…>`, whatever path leads to `name`.
pub(crate) fn arguments<'t>(written: &'t Type, name: &str) -> Option<Vec<&'t Type>> {
    let Type::Path(path) = written else { return None };
    let last = path.path.segments.last()?;
    if last.ident != name {
        return None;
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(argument) => Some(argument),
        _ => None,
    });
    Some(types.collect())
}
