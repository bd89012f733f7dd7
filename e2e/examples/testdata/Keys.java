import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Reads the keys of Google's tokens with both of Java's own clients. */
public class Keys {
  public static void main(String[] args) throws Exception {
    URI v3 = URI.create("https://www.googleapis.com/oauth2/v3/certs");
    HttpResponse<String> answer = HttpClient.newHttpClient()
        .send(HttpRequest.newBuilder(v3).build(), HttpResponse.BodyHandlers.ofString());
    System.out.println(answer.body());
    URI v1 = URI.create("https://www.googleapis.com/oauth2/v1/certs");
    HttpURLConnection connection = (HttpURLConnection) v1.toURL().openConnection();
    System.out.println(new String(connection.getInputStream().readAllBytes()));
  }
}
