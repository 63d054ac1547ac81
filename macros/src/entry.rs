//! `#[dcluster::main]`: the function becomes the driver, and `main` starts whatever this process is to be.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, ItemFn, Result, parse2};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    if !options.is_empty() {
        return Err(Error::new_spanned(options, "#[dcluster::main] takes no options"));
    }
    let function: ItemFn = parse2(item)?;
    let signature = &function.sig;
    if signature.ident != "main" {
        return Err(Error::new_spanned(&signature.ident, "#[dcluster::main] goes on the function `main`"));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new_spanned(&signature.generics, "`main` takes no generic parameters"));
    }
    if signature.inputs.len() != 1 {
        return Err(Error::new_spanned(
            signature,
            "`main` takes one parameter, the client: `async fn main(client: Client)`, or \
             `fn main(client: blocking::Client)`",
        ));
    }
    let launch = match signature.asyncness {
        Some(_) => quote!(main_async),
        None => quote!(main_blocking),
    };
    let attributes = &function.attrs;
    let (asyncness, inputs, output, body) =
        (&signature.asyncness, &signature.inputs, &signature.output, &function.block);
    Ok(quote! {
        fn main() -> ::std::process::ExitCode {
            #(#attributes)*
            #asyncness fn driver(#inputs) #output #body

            ::dcluster::launch::#launch(driver)
        }
    })
}
