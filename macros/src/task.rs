//! `#[dcluster::task]`: the function, a type of the same name with `call`, and the registration.
//!
//! The type is written `struct inc {}`, which leaves the function's name free, so that `inc(1)` runs here and
//! `inc::call(1)` describes a call.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, ItemFn, LitStr, Path, Result, ReturnType, Signature, Token, Type, parse_quote, parse2};

use crate::parameter::{Parameter, arguments};

pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options: Options = parse2(options)?;
    let function: ItemFn = parse2(item).map_err(|error| {
        Error::new(error.span(), format!("#[dcluster::task] goes on a function: {error}"))
    })?;
    refuse(&function.sig)?;
    let task = Task::new(options, &function)?;
    let (shell, registration) = (task.shell(), task.registration());
    Ok(quote! {
        #function
        #shell
        #registration
    })
}

/// What is between the parentheses of the attribute.
struct Options {
    impure: bool,
    name: Option<LitStr>,
    dcluster: Path,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self { impure: false, name: None, dcluster: parse_quote!(::dcluster) };
        while !input.is_empty() {
            if input.peek(Token![crate]) {
                input.parse::<Token![crate]>()?;
                input.parse::<Token![=]>()?;
                options.dcluster = input.call(Path::parse_mod_style)?;
            } else {
                let option: Ident = input.parse()?;
                match option.to_string().as_str() {
                    "impure" => options.impure = true,
                    "name" => {
                        input.parse::<Token![=]>()?;
                        options.name = Some(input.parse()?);
                    }
                    other => {
                        let message = format!(
                            "unknown option `{other}`: there are `impure`, `name = \"…\"` and `crate = path`"
                        );
                        return Err(Error::new(option.span(), message));
                    }
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

/// What a task cannot be.
fn refuse(signature: &Signature) -> Result<()> {
    if let Some(parameter) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a task has no generic or lifetime parameters: each worker must know the concrete types; write one task per \
             type and share a generic function between them",
        ));
    }
    if let Some(asyncness) = &signature.asyncness {
        return Err(Error::new_spanned(
            asyncness,
            "a task is not async: it has a thread to itself and may block",
        ));
    }
    if let Some(unsafety) = &signature.unsafety {
        return Err(Error::new_spanned(
            unsafety,
            "a task is not unsafe: wrap the unsafe part in a safe function",
        ));
    }
    if let Some(abi) = &signature.abi {
        return Err(Error::new_spanned(abi, "a task is a Rust function: leave out `extern`"));
    }
    if let Some(variadic) = &signature.variadic {
        return Err(Error::new_spanned(variadic, "a task has a fixed number of parameters"));
    }
    if let ReturnType::Type(_, written) = &signature.output
        && let Type::Reference(_) | Type::ImplTrait(_) = &**written
    {
        return Err(Error::new_spanned(written, "a task returns a value of its own, of a concrete type"));
    }
    Ok(())
}

struct Task<'f> {
    options: Options,
    function: &'f ItemFn,
    parameters: Vec<Parameter>,
    /// What the task's future holds.
    result: Type,
    /// Whether the function returns a `Result` of that.
    fallible: bool,
}

impl<'f> Task<'f> {
    fn new(options: Options, function: &'f ItemFn) -> Result<Self> {
        let parameters = function.sig.inputs.iter().enumerate();
        let parameters =
            parameters.map(|(position, input)| Parameter::new(position, input)).collect::<Result<_>>()?;
        let (result, fallible) = match &function.sig.output {
            ReturnType::Default => (parse_quote!(()), false),
            ReturnType::Type(_, written) => match arguments(written, "Result").as_deref() {
                Some([result, ..]) => ((*result).clone(), true),
                _ => ((**written).clone(), false),
            },
        };
        Ok(Self { options, function, parameters, result, fallible })
    }

    /// The type of the function's name.
    fn shell(&self) -> TokenStream {
        let dcluster = &self.options.dcluster;
        let (visibility, ident) = (&self.function.vis, &self.function.sig.ident);
        let result = &self.result;
        let names: Vec<_> = self.parameters.iter().map(|parameter| &parameter.ident).collect();
        let data: Vec<_> = self.parameters.iter().map(|parameter| &parameter.data).collect();
        // No parameter can be called this: the name is the macro's own.
        let list = Ident::new("arguments", Span::mixed_site());
        let description = format!("The task [`{ident}()`]: [`call`](Self::call) describes a call of it.");
        let call_description =
            format!("A call of [`{ident}()`]; each argument is a value or a future of it.");
        let deprecations =
            self.function.attrs.iter().filter(|attribute| attribute.path().is_ident("deprecated"));
        quote! {
            #[doc = #description]
            #[allow(non_camel_case_types)]
            #[allow(dead_code)]
            #(#deprecations)*
            #visibility struct #ident {}

            #[allow(dead_code)]
            impl #ident {
                #[doc = #call_description]
                #visibility fn call(
                    #(#names: impl #dcluster::client::argument::IntoArgument<#data>),*
                ) -> #dcluster::client::call::Call<#result> {
                    let mut #list = #dcluster::client::argument::ArgumentList::new();
                    #(#dcluster::client::argument::IntoArgument::<#data>::put(#names, &mut #list);)*
                    #dcluster::client::call::Call::new(&Self::DEFINITION, #list)
                }
            }
        }
    }

    /// The definition with the run shim, and its submission.
    fn registration(&self) -> TokenStream {
        let dcluster = &self.options.dcluster;
        let registry = quote!(#dcluster::registry);
        let shim = quote!(#registry::shim);
        let ident = &self.function.sig.ident;
        let name = match &self.options.name {
            Some(name) => name.to_token_stream(),
            None => {
                let ident = ident.to_string();
                quote!(::core::concat!(::core::module_path!(), "::", #ident))
            }
        };
        let signature = self.signature_text();
        let purity = if self.options.impure { quote!(Impure) } else { quote!(Pure) };
        let body = self.body(&shim);
        let line_of = ident.span();
        let line = quote_spanned!(line_of=> ::core::line!());
        let data_checks = self.data_checks(&shim);
        let visibility = &self.function.vis;
        quote! {
            const _: () = {
                #data_checks

                fn __dcluster_body(
                    reader: &mut #registry::arguments::ArgumentReader<'_>,
                ) -> ::core::result::Result<#dcluster::model::Value, #dcluster::model::TaskError> {
                    #[allow(unused_imports)]
                    use #shim::{ConvertError as _, ConvertText as _, ConvertUnshown as _, OwnByClone as _, OwnByPacking as _};
                    #body
                }

                fn __dcluster_run(
                    arguments: #registry::Arguments<'_>,
                ) -> ::core::result::Result<#dcluster::model::Value, #dcluster::model::TaskError> {
                    #shim::run_task(&#ident::DEFINITION, arguments, __dcluster_body)
                }

                impl #ident {
                    /// What the registry knows of the task.
                    #visibility const DEFINITION: #registry::TaskDefinition = #registry::TaskDefinition {
                        name: #name,
                        signature: #signature,
                        file: ::core::file!(),
                        line: #line,
                        purity: #registry::Purity::#purity,
                        run: __dcluster_run,
                        id: #registry::function_id(::core::concat!(#name, "\0", #signature)),
                    };
                }

                #registry::inventory::submit! { #ident::DEFINITION }
            };
        }
    }

    /// Takes the arguments, calls the function, and makes a value of what it returns.
    fn body(&self, shim: &TokenStream) -> TokenStream {
        let dcluster = &self.options.dcluster;
        let ident = &self.function.sig.ident;
        let taken_as = |position| Ident::new(&format!("argument_{position}"), Span::mixed_site());
        let names: Vec<_> = (0..self.parameters.len()).map(taken_as).collect();
        let (taken, given): (Vec<_>, Vec<_>) =
            self.parameters.iter().zip(&names).map(|(parameter, name)| parameter.take(name, shim)).unzip();
        let result = if self.fallible {
            quote! {
                match outcome {
                    ::core::result::Result::Ok(value) => ::core::result::Result::Ok(#dcluster::model::Value::new(value)),
                    ::core::result::Result::Err(error) => {
                        ::core::result::Result::Err((&&&#shim::ErrorForm::of(&error)).convert(error))
                    }
                }
            }
        } else {
            quote!(::core::result::Result::Ok(#dcluster::model::Value::new(outcome)))
        };
        quote! {
            #(let #names = #taken;)*
            reader.finish()?;
            let outcome = #ident(#(#given),*);
            #result
        }
    }

    /// Points at the parameter or result that is not data.
    fn data_checks(&self, shim: &TokenStream) -> TokenStream {
        let parameters = self.parameters.iter().map(|parameter| &parameter.data);
        parameters
            .chain([&self.result])
            .map(|data| quote_spanned!(data.span()=> const _: () = #shim::assert_data::<#data>();))
            .collect()
    }

    fn signature_text(&self) -> String {
        let parameters: Vec<_> = self.parameters.iter().map(|parameter| text_of(&parameter.data)).collect();
        format!("({}) -> {}", parameters.join(", "), text_of(&self.result))
    }
}

/// A type as it is usually written.
fn text_of(written: &Type) -> String {
    let text = written.to_token_stream().to_string();
    let mut tight = text.replace(" :: ", "::").replace(":: ", "::").replace(" < ", "<").replace(" >", ">");
    for (loose, close) in [
        ("< ", "<"),
        (" ,", ","),
        ("& ", "&"),
        (" ;", ";"),
        ("[ ", "["),
        (" ]", "]"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
    ] {
        tight = tight.replace(loose, close);
    }
    tight.trim_start_matches("::").replace("std::vec::Vec", "Vec").replace("std::string::String", "String")
}
